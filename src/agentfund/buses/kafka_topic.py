"""A Kafka topic of one partition as an ordered log of frames, with aiokafka.

Kafka keeps the order within a partition, so the whole log lies in one. A frame is acknowledged when every replica in sync
has it (`acks=all`), and it is not synced to a disk before that: the level is "process". How many replicas that are, the
topic's `min.insync.replicas` says; `describe` tells it.

The producer is not idempotent. Frames are numbered by who writes them, so one that lies there twice counts once, also where
it was repeated by another process or after a restart, which Kafka's own numbers do not cover. And an idempotent producer of
aiokafka never gives up a batch: while the brokers are away it can neither be told to stop nor to hurry.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from agentfund.buses.loops import PerLoop
from agentfund.buses.ordered import Frame
from agentfund.errors import BusError, BusUnavailable

try:  # it has no types
    from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition  # type: ignore[import-untyped]
    from aiokafka import errors as kafka
    from aiokafka.admin import AIOKafkaAdminClient, NewTopic  # type: ignore[import-untyped]
    from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType  # type: ignore[import-untyped]
    from aiokafka.helpers import create_ssl_context  # type: ignore[import-untyped]
except ImportError as error:
    raise BusError("KafkaBus needs aiokafka: pip install 'agentfund[kafka]'") from error

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from agentfund.messages import Durability

FETCH_WAIT_MS = 100
"""How long a broker may keep a follower waiting for more; then it is asked again."""

IDLE_S = 5.0
"""A follower that heard nothing for so long asks whether there is more."""

MOST_REPLICAS = 3
KEEPS = {"cleanup.policy": "delete", "retention.ms": "-1", "retention.bytes": "-1", "unclean.leader.election.enable": "false"}
"""Settings without which a topic discards what was acknowledged."""

FIRST_WAIT_S, LONGEST_WAIT_S = 0.05, 1.0
_NAME = re.compile(r"[a-zA-Z0-9._-]{1,249}")
_PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
_REFUSED = (
    kafka.AuthenticationFailedError,
    kafka.AuthenticationMethodNotSupported,
    kafka.ClusterAuthorizationFailedError,
    kafka.SaslAuthenticationFailed,
    kafka.TopicAuthorizationFailedError,
    kafka.UnsupportedSaslMechanismError,
)
_HOPELESS = (kafka.MessageSizeTooLargeError, kafka.RecordListTooLargeError, kafka.InvalidTopicError, kafka.PolicyViolationError)


class _Link:
    """What one event loop writes with, and asks where the log ends."""

    def __init__(self, producer: Any, asker: Any) -> None:
        self.producer = producer
        self.asker = asker


class KafkaTopic:
    """A Kafka topic as an `Ordered` log.

    Args:
        url: `kafka://host:port,host:port`; with `user:password@` before and `?security=SASL_SSL&mechanism=SCRAM-SHA-512`
            behind where the brokers want it, and `&cafile=...` where their certificates have an authority of their own.
        name: the topic. It is made where it is not there: one partition, up to three replicas, kept for good.
        timeout: how long to wait for the brokers.
    """

    def __init__(self, url: str, *, name: str = "agentfund", timeout: timedelta = timedelta(seconds=5)) -> None:
        parts = urlsplit(url)
        if parts.scheme != "kafka":
            raise BusError(f"{parts.scheme or 'an address without a scheme'}: is not Kafka: kafka://host:port,host:port")
        if not _NAME.fullmatch(name) or name in (".", ".."):
            raise BusError(f"{name!r} cannot name a topic: 1 to 249 letters, digits, dots, underscores and hyphens")
        login, _, hosts = parts.netloc.rpartition("@")
        hosts = ",".join(one if re.search(r":\d+$", one) else f"{one}:9092" for one in (hosts or "localhost").split(","))
        self.home = f"topic {name!r} of Kafka at {hosts}"
        self._patience = timeout.total_seconds()
        self._how = {
            "bootstrap_servers": hosts.split(","),
            "request_timeout_ms": max(1, int(1_000 * self._patience)),
            **_security(login, {key: values[-1] for key, values in parse_qs(parts.query).items()}),
        }
        self._name = name
        self._where = TopicPartition(name, 0)
        self._there = False
        self._found = ""
        self._links = PerLoop(self._open, self._drop)
        self._endings: set[asyncio.Task[None]] = set()

    async def connect(self) -> Durability:
        """Make the topic where it is not there yet, and look at what it keeps."""
        await self._links.get()
        return "process"

    async def describe(self) -> str:
        """Return what was found."""
        await self._links.get()
        return f"{self.home}, {self._found}: acknowledged when all replicas in sync have it, not synced to their disks"

    async def append(self, data: bytes) -> int:
        """Append a frame; return its offset."""
        link = self._links.ready() or await self._links.get()
        async with self._speaking():
            told = await link.producer.send_and_wait(self._name, data, partition=0)
        place: int = told.offset
        return place

    async def end(self) -> int:
        """Return the offset of the last frame that all replicas in sync have."""
        link = self._links.ready() or await self._links.get()
        async with self._speaking():
            ends: dict[Any, int] = await link.asker.end_offsets([self._where])
        return ends[self._where] - 1

    async def follow(self, after: int) -> AsyncIterator[Frame]:
        """Give the frames beyond a place and then those that come.

        Raises:
            BusError: the topic was deleted, made again, or lost its beginning: it is not the log any more.
        """
        wait = FIRST_WAIT_S
        while True:
            try:
                await self._links.get()
                async with self._consumer() as consumer:
                    consumer.assign([self._where])
                    consumer.seek(self._where, after + 1)
                    while True:
                        try:
                            got = await consumer.getmany(self._where, timeout_ms=int(1_000 * IDLE_S))
                        except kafka.OffsetOutOfRangeError as error:
                            raise await self._lost(consumer, after) from error
                        for record in got.get(self._where, ()):
                            after, wait = record.offset, FIRST_WAIT_S
                            yield Frame(after, record.value or b"")
                        if not got and await self._more(consumer, after):
                            break
            except BusUnavailable:
                await asyncio.sleep(wait)
                wait = min(2 * wait, LONGEST_WAIT_S)

    async def close(self) -> None:
        """Let go of what the running loop writes with."""
        await self._links.close()

    async def _open(self) -> _Link:
        async with self._speaking():
            await self._prepare()
        self._there = True
        producer = AIOKafkaProducer(acks="all", **self._how)
        await self._start(producer, producer.client)
        try:
            async with self._speaking():
                await producer.partitions_for(self._name)
            asker = self._new_consumer()
            await self._start(asker, asker._client)
        except BaseException:
            await _stop(producer, producer.client)
            raise
        link = _Link(producer, asker)
        try:
            async with self._speaking():
                await asker.end_offsets([self._where])  # so that who asks later finds a connection
        except BaseException:
            await self._drop(link)
            raise
        return link

    async def _start(self, one: Any, client: Any) -> None:
        """Start a producer or a consumer; where that is cut short, let it end by itself, or aiokafka loses a connection."""
        starting = asyncio.ensure_future(one.start())
        try:
            async with self._speaking():
                await asyncio.shield(starting)
        except BaseException as error:
            ending = asyncio.ensure_future(_end(starting, one, client))
            self._endings.add(ending)
            ending.add_done_callback(self._endings.discard)
            if _ours(error):
                await asyncio.wait([ending])
            raise

    async def _drop(self, link: _Link) -> None:
        await _stop(link.producer, link.producer.client)
        await _stop(link.asker, link.asker._client)

    def _new_consumer(self) -> Any:
        return AIOKafkaConsumer(
            enable_auto_commit=False,
            auto_offset_reset="none",
            isolation_level="read_committed",
            fetch_max_wait_ms=FETCH_WAIT_MS,
            **self._how,
        )

    @asynccontextmanager
    async def _consumer(self) -> AsyncIterator[Any]:
        consumer = self._new_consumer()
        await self._start(consumer, consumer._client)
        try:
            yield consumer
        except BaseException as error:
            if _ours(error) or isinstance(error, BusError):
                raise
            raise self._failure(error) from error
        finally:
            await _stop(consumer, consumer._client)

    async def _more(self, consumer: Any, after: int) -> bool:
        """Return whether there is more than came, so that one has to begin anew."""
        async with self._speaking():
            ends: dict[Any, int] = await consumer.end_offsets([self._where])
        if ends[self._where] <= after:
            raise await self._lost(consumer, after)
        return ends[self._where] > after + 1

    async def _lost(self, consumer: Any, after: int) -> BusError:
        async with self._speaking():
            begins: dict[Any, int] = await consumer.beginning_offsets([self._where])
        if begins[self._where] > after + 1:
            return BusError(
                f"{self.home} begins at {begins[self._where]}, what was before is gone: set retention.ms=-1 and "
                "retention.bytes=-1, and restore the topic or choose another name for the log"
            )
        return BusError(
            f"{self.home} ends before {after}, which was in it: it was made again or lost its end; "
            "restore it, or choose another name for the log"
        )

    async def _prepare(self) -> None:
        """See to it that the topic is there. It is never asked for by its name before, or the brokers might make it."""
        admin = AIOKafkaAdminClient(**self._how)
        try:
            await admin.start()
            if self._name not in await admin.list_topics():
                await self._create(admin)
            replicas = await self._replicas(admin)
            try:
                resource = ConfigResource(ConfigResourceType.TOPIC, self._name, dict.fromkeys((*KEEPS, "min.insync.replicas")))
                found = settings(await admin.describe_configs([resource]))
            except (kafka.IncompatibleBrokerVersion, *_REFUSED):
                found = {}  # what else would tell of it is a beginning that is gone
        finally:
            await admin.close()
        if wrong := unfit(found):
            told = ", ".join(f"{key}={value}" for key, value in wrong.items())
            fix = ",".join(f"{key}={KEEPS[key]}" for key in wrong)
            raise BusError(
                f"{self.home} has {told}, so it may discard what was acknowledged: "
                f"kafka-configs.sh --alter --entity-type topics --entity-name {self._name} --add-config {fix}"
            )
        least = found.get("min.insync.replicas", "unknown")
        self._found = f"replication factor {replicas}, min.insync.replicas {least}"
        if not found:
            self._found += ", whose settings the brokers do not tell"

    async def _create(self, admin: Any) -> None:
        make = "kafka-topics.sh --create --partitions 1 " + " ".join(f"--config {key}={value}" for key, value in KEEPS.items())
        if self._there:
            raise BusError(f"{self.home} is gone, somebody deleted it: restore it, or choose another name for the log")
        cluster = await admin.describe_cluster()
        if cluster["controller_id"] not in {broker["node_id"] for broker in cluster["brokers"]}:
            raise BusUnavailable(f"{self.home} cannot be made: the brokers have no controller now")
        replicas = min(MOST_REPLICAS, len(cluster["brokers"]))
        least = "2" if replicas == MOST_REPLICAS else "1"
        topic = NewTopic(self._name, 1, replicas, topic_configs={**KEEPS, "min.insync.replicas": least})
        try:
            failed, told = created(await admin.create_topics([topic]))
        except kafka.IncompatibleBrokerVersion as error:
            raise BusError(f"{self.home} is not there, and the brokers make no topics: {make} --topic {self._name}") from error
        if failed is kafka.NoError or failed is kafka.TopicAlreadyExistsError:
            return
        text = f"{self.home} could not be made: {failed.__name__} {told or ''}: {make} --topic {self._name}"
        raise BusUnavailable(text) if failed.retriable else BusError(text)

    async def _replicas(self, admin: Any) -> int:
        while True:  # brokers learn of a topic one after the other
            (topic,) = await admin.describe_topics([self._name])
            partitions = topic["partitions"]
            if topic["error_code"] == 0 and all(one["leader"] >= 0 for one in partitions):
                break
            if kafka.for_code(topic["error_code"]) in _REFUSED:
                raise kafka.for_code(topic["error_code"])
            await asyncio.sleep(0.05)
        if len(partitions) != 1:
            raise BusError(
                f"{self.home} has {len(partitions)} partitions and so no order of all: choose another name for the log"
            )
        return len(partitions[0]["replicas"])

    @asynccontextmanager
    async def _speaking(self) -> AsyncIterator[None]:
        """Speak to the brokers within the time."""
        try:
            async with asyncio.timeout(self._patience):
                yield
        except BusError:
            raise
        except BaseException as error:
            if _ours(error):
                raise
            raise self._failure(error) from error

    def _failure(self, error: BaseException) -> BusError:
        """Return what to tell of an error: `BusUnavailable` where trying again may help."""
        told = f"{type(error).__name__} {error}".strip()
        if isinstance(error, _REFUSED):
            return BusError(f"{self.home} refuses us: {told}; check user, password, mechanism and permissions")
        if isinstance(error, _HOPELESS):
            return BusError(f"{self.home} cannot take this: {told}; see max.message.bytes and the policies of the brokers")
        if isinstance(error, TimeoutError):
            told = f"no answer within {self._patience:g} s"
        return BusUnavailable(f"{self.home} cannot be reached: {told}; start the brokers, or correct the addresses")


async def _stop(one: Any, client: Any) -> None:
    """Stop a producer or a consumer; aiokafka fails to while a consumer pauses after an error, and leaves its client open."""
    try:
        await one.stop()
    except BaseException as error:
        with suppress(Exception):
            await client.close()
        if _ours(error):
            raise


async def _end(starting: asyncio.Future[None], one: Any, client: Any) -> None:
    await asyncio.wait([starting])
    with suppress(BaseException):
        starting.result()
    await _stop(one, client)


def _ours(error: BaseException) -> bool:
    """Return whether our own task is to end; tasks of aiokafka's end in the same way, and tell us of it."""
    task = asyncio.current_task()
    cancelled = isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0
    return cancelled or not isinstance(error, Exception | asyncio.CancelledError)


def settings(responses: list[Any]) -> dict[str, str]:
    """Return a topic's settings from the answers to DescribeConfigs.

    Raises:
        KafkaError: the brokers did not tell them.
    """
    (resource,) = (one for response in responses for one in response.resources)
    code, entries = resource[0], resource[4]
    if code:
        raise kafka.for_code(code)(resource[1])
    return {entry[0]: entry[1] for entry in entries if entry[1] is not None}


def unfit(found: Mapping[str, str]) -> dict[str, str]:
    """Return those of a topic's settings by which it may discard what was acknowledged."""
    return {key: value for key, value in found.items() if key in KEEPS and value != KEEPS[key]}


def created(response: Any) -> tuple[type[Any], str]:
    """Return what became of a topic from the answer to CreateTopics: the kind of error, and what was told of it."""
    (answer,) = response.topic_errors
    return kafka.for_code(answer[1]), str(answer[2] or "") if len(answer) > 2 else ""


def _security(login: str, query: Mapping[str, str]) -> dict[str, Any]:
    known = {"security", "mechanism", "cafile"}
    if unknown := set(query) - known:
        raise BusError(f"{', '.join(sorted(unknown))}: is nothing that an address of Kafka can say: {', '.join(sorted(known))}")
    protocol = query.get("security", "SASL_SSL" if login else "PLAINTEXT").upper()
    if protocol not in _PROTOCOLS:
        raise BusError(f"security={protocol}: there is {', '.join(_PROTOCOLS)}")
    how: dict[str, Any] = {"security_protocol": protocol}
    if protocol.endswith("SSL"):
        how["ssl_context"] = create_ssl_context(cafile=query.get("cafile"))
    if protocol.startswith("SASL"):
        user, _, password = login.partition(":")
        how["sasl_mechanism"] = query.get("mechanism", "PLAIN").upper()
        how["sasl_plain_username"], how["sasl_plain_password"] = unquote(user), unquote(password)
    return how
