"""The stages of a study: each reads artefacts, computes, and writes artefacts. The command line calls them."""
