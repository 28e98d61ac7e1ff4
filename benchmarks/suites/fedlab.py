"""The federation in FedLab 1.3.0 (SMILELab-FL/FedLab), its standalone pipeline with the serial SGD trainer."""

from __future__ import annotations

from fedlab.contrib.algorithm.basic_client import SGDSerialClientTrainer
from fedlab.contrib.algorithm.basic_server import SyncServerHandler
from fedlab.contrib.dataset.basic_dataset import FedDataset
from fedlab.core.standalone import StandalonePipeline
from torch.utils.data import DataLoader, TensorDataset

from benchmarks.suites.common import Course, Federation, arguments, load


class Clients(FedDataset):
    def __init__(self, federation: Federation) -> None:
        self.parts = [TensorDataset(*federation.client(client)) for client in range(federation.clients)]

    def get_dataloader(self, id: int, batch_size: int) -> DataLoader:
        return DataLoader(self.parts[id], batch_size=batch_size)


class Pipeline(StandalonePipeline):
    def __init__(self, handler: SyncServerHandler, trainer: SGDSerialClientTrainer, course: Course) -> None:
        super().__init__(handler, trainer)
        self.course = course

    def evaluate(self) -> None:
        """What the pipeline calls after each round."""
        self.course.mark()


def main() -> None:
    options = arguments("fedlab")
    course = Course("fedlab", options)
    federation = load(options.data)
    network = federation.network()
    trainer = SGDSerialClientTrainer(network, federation.clients)
    trainer.setup_dataset(Clients(federation))
    trainer.setup_optim(1, federation.batch_size, federation.learning_rate)
    handler = SyncServerHandler(network, course.total, 1.0)
    course.mark()
    Pipeline(handler, trainer, course).main()
    course.report(federation, handler.model.state_dict(), ["fedlab"])


if __name__ == "__main__":
    main()
