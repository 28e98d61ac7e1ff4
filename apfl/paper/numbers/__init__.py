"""From runs to numbers: means over seeds, paired differences, intervals, ranks."""
