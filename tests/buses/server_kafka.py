"""A Kafka cluster that is none: the mock cluster inside librdkafka, which the wheel of confluent-kafka carries.

It speaks Kafka's own protocol over TCP, with several brokers that can be taken down, delayed and told to fail. It keeps what
it is given in memory, in one process, and nothing of it is ever on a disk: good for whether an adapter speaks the protocol
and bears faults, worthless for whether anything is durable and for how fast Kafka is. It creates no topics by request, it
does not tell the settings of a topic, and it makes every topic that is asked for, with four partitions.

Run as a program it is that cluster: it prints its addresses and obeys the lines that it reads.
"""

from __future__ import annotations

import ctypes
import importlib.util
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.buses.servers import Server

BROKERS = 3
PRODUCE, FETCH, LIST_OFFSETS, METADATA = 0, 1, 2, 3
NOT_LEADER, TIMED_OUT, NOT_ENOUGH_REPLICAS = 6, 7, 19


class MockKafka(Server):
    """The mock cluster in a process of its own. What it keeps ends with the process."""

    @property
    def url(self) -> str:
        return f"kafka://{self.addresses}"

    def command(self) -> list[str]:
        return [sys.executable, "-m", "tests.buses.server_kafka"]

    def start(self) -> None:
        with (self.folder / "output.txt").open("ab") as errors:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
            )
        self.addresses = self._line()
        if not self.addresses:
            raise AssertionError(f"the mock cluster did not start:\n{(self.folder / 'output.txt').read_text()[-2000:]}")

    def stop(self) -> None:
        super().stop()
        if self.process is not None:
            for pipe in (self.process.stdin, self.process.stdout):
                if pipe is not None:
                    pipe.close()

    def topic(self, name: str, partitions: int = 1, replicas: int = BROKERS) -> None:
        """Make a topic."""
        self._tell("topic", name, partitions, replicas)

    def delete(self, name: str) -> None:
        """Delete a topic."""
        self._tell("delete", name)

    def lead(self, topic: str, broker: int) -> None:
        """Make a broker the leader of a topic's first partition."""
        self._tell("lead", topic, broker)

    def down(self, broker: int = -1) -> None:
        """Take a broker down, -1 all of them: connections end, none is accepted."""
        self._tell("down", broker)

    def up(self, broker: int = -1) -> None:
        """Let it serve again."""
        self._tell("up", broker)

    def delay(self, milliseconds: int) -> None:
        """Let all brokers answer so much later; what they are asked they do at once."""
        self._tell("delay", milliseconds)

    def fail(self, request: int, *errors: int) -> None:
        """Answer the next requests of a kind with errors, without doing what is asked."""
        self._tell("fail", request, *errors)

    def _tell(self, *words: object) -> None:
        assert self.process is not None
        assert self.process.stdin is not None
        self.process.stdin.write(" ".join(map(str, words)).encode() + b"\n")
        self.process.stdin.flush()
        answer = self._line()
        if answer != "0":
            raise AssertionError(f"the mock cluster could not {' '.join(map(str, words))}: {answer}")

    def _line(self) -> str:
        assert self.process is not None
        assert self.process.stdout is not None
        return self.process.stdout.readline().decode().strip()


def _library() -> ctypes.CDLL:
    found = importlib.util.find_spec("confluent_kafka")
    if found is None or found.origin is None:
        raise SystemExit("confluent-kafka is not installed: it is a development dependency")
    package = Path(found.origin).parent
    for folder in (package.with_name("confluent_kafka.libs"), package / ".dylibs"):
        for path in sorted(folder.glob("librdkafka*")):
            return ctypes.CDLL(str(path))
    raise SystemExit(f"{package} carries no librdkafka")


class _Cluster:
    def __init__(self) -> None:
        self._library = _library()
        error = ctypes.create_string_buffer(512)
        client = self._call("rd_kafka_new", 0, None, error, ctypes.c_size_t(512), answers=ctypes.c_void_p)
        self._it = ctypes.c_void_p(
            self._call("rd_kafka_mock_cluster_new", ctypes.c_void_p(client), BROKERS, answers=ctypes.c_void_p)
        )
        self._call("rd_kafka_mock_set_controller_id", self._it, 1)  # else clients find nobody to ask for a topic
        told: bytes = self._call("rd_kafka_mock_cluster_bootstraps", self._it, answers=ctypes.c_char_p)
        self.addresses = told.decode()

    def obey(self, words: list[str]) -> int:
        name, rest = words[0], words[1:]
        if name == "topic":
            return self._do("topic_create", rest[0].encode(), int(rest[1]), int(rest[2]))
        if name == "delete":
            return self._do("topic_delete", rest[0].encode())
        if name == "lead":
            return self._do("partition_set_leader", rest[0].encode(), 0, int(rest[1]))
        if name in ("down", "up"):
            return self._do(f"broker_set_{name}", int(rest[0]))
        if name == "delay":
            return max(self._do("broker_set_rtt", broker, int(rest[0])) for broker in range(1, BROKERS + 1))
        if name == "fail":
            errors = [int(one) for one in rest[1:]]
            codes = (ctypes.c_int * len(errors))(*errors)
            return self._do("push_request_errors_array", ctypes.c_int16(int(rest[0])), ctypes.c_size_t(len(errors)), codes)
        return -1

    def _do(self, name: str, *args: Any) -> int:
        return int(self._call(f"rd_kafka_mock_{name}", self._it, *args) or 0)

    def _call(self, name: str, *args: Any, answers: Any = ctypes.c_int) -> Any:
        function = getattr(self._library, name)
        function.restype = answers
        return function(*args)


if __name__ == "__main__":
    cluster = _Cluster()
    print(cluster.addresses, flush=True)
    for line in sys.stdin:
        print(cluster.obey(line.split()), flush=True)
