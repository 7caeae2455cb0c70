"""The replica set of the fault tests: its members die, hang, part and come back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient
from pymongo.errors import PyMongoError, WTimeoutError
from pymongo.write_concern import WriteConcern

from tests.faults.cluster import Cluster, ClusterError, running_cluster
from tests.faults.links import ALL, HARNESS, PASS, Rule
from tests.faults.processes import ClockUnavailable

Document = dict[str, Any]

#: With an election timeout of 2 s, on a busy machine.
ELECTION_SECONDS = 20.0
DATABASE = "faults_of_a_cluster"

#: They share the cluster, and so the pytest worker that starts it.
pytestmark = pytest.mark.xdist_group("faults")


@pytest.fixture(scope="module")
def shared_cluster() -> Iterator[Cluster]:
    """Three members for all tests here."""
    with running_cluster() as cluster:
        yield cluster


@pytest.fixture
def cluster(shared_cluster: Cluster) -> Iterator[Cluster]:
    """The members, whole and without the test's database, before and after."""
    yield shared_cluster
    shared_cluster.heal()
    shared_cluster.clean(DATABASE)


@pytest.fixture
def client(shared_cluster: Cluster) -> Iterator[MongoClient[Document]]:
    """By the proxies, as everybody else."""
    with shared_cluster.client() as client:
        yield client


def write(
    client: MongoClient[Document],
    name: str,
    w: int | str = "majority",
    seconds: float = ELECTION_SECONDS,
) -> None:
    """Insert a document of this name, and wait so long until so many members have it."""
    concern = WriteConcern(w, wtimeout=int(seconds * 1000))
    client[DATABASE].get_collection("notes", write_concern=concern).insert_one({"_id": name})


def padded(client: MongoClient[Document], megabytes: int) -> int:
    """How many megabytes could be written, of so many."""
    for number in range(megabytes):
        try:
            client[DATABASE]["padding"].insert_one({"padding": bytes(1_000_000)})
        except PyMongoError:
            return number
    return megabytes


def names(cluster: Cluster) -> list[str]:
    """What is found afterwards."""
    return sorted(document["_id"] for document in cluster.dump(DATABASE)["notes"])


def test_three_members_know_each_other_by_their_proxies(
    cluster: Cluster, client: MongoClient[Document]
) -> None:
    """Nobody is told a mongod's own port, and so nothing bypasses the links."""
    addresses = {member.address for member in cluster.members}
    primary = cluster.primary()
    assert set(primary.status()["hosts"]) == addresses
    assert primary.status()["primary"] == primary.address
    assert {member.name for member in cluster.secondaries()} | {primary.name} == {
        "db0",
        "db1",
        "db2",
    }
    write(client, "everywhere", 3)
    assert client.address == ("127.0.0.1", int(primary.address.partition(":")[2]))
    assert not addresses & {f"127.0.0.1:{member.port}" for member in cluster.members}


def test_a_killed_primary_is_replaced(cluster: Cluster, client: MongoClient[Document]) -> None:
    """What a majority had is there, and the dead one comes back as a secondary that has it all."""
    write(client, "before")
    killed = cluster.primary()
    killed.kill()
    assert not killed.is_running()
    elected = cluster.primary(ELECTION_SECONDS)
    assert elected is not killed
    write(client, "between")
    cluster.heal()
    assert killed in [*cluster.secondaries(), cluster.primary()]
    assert names(cluster) == ["before", "between"]


def test_a_paused_primary_is_replaced_and_takes_it(
    cluster: Cluster, client: MongoClient[Document]
) -> None:
    """While it hangs another is elected, and when it wakes it follows that one."""
    write(client, "before")
    paused = cluster.primary()
    paused.pause()
    assert paused.is_running()
    elected = cluster.successor(paused, ELECTION_SECONDS)
    write(client, "between")
    paused.wake()
    cluster.wait_until_healthy()
    assert cluster.primary() is elected
    assert names(cluster) == ["before", "between"]


def test_an_isolated_primary_rolls_back(cluster: Cluster, client: MongoClient[Document]) -> None:
    """What only it had was never acknowledged, and is gone when it is back; all else stays."""
    write(client, "before")
    former = cluster.primary()
    cluster.isolate(former)
    with pytest.raises(WTimeoutError):
        write(client, "lost", "majority", 0.3)
    assert former.status().get("isWritablePrimary"), "it has noticed before anything was written"
    cluster.successor(former, ELECTION_SECONDS)
    write(client, "between")
    assert former.client[DATABASE]["notes"].find_one("lost")
    cluster.heal()
    assert names(cluster) == ["before", "between"]
    assert not former.client[DATABASE]["notes"].find_one("lost")


def test_stepping_down_makes_another_primary(
    cluster: Cluster, client: MongoClient[Document]
) -> None:
    """The primary hands over at once, and acknowledged writes stay."""
    former = cluster.primary()
    write(client, "before")
    cluster.step_down()
    cluster.successor(former, ELECTION_SECONDS)
    write(client, "after")
    assert former in cluster.secondaries()
    assert names(cluster) == ["after", "before"]


def test_one_of_three_accepts_nothing(cluster: Cluster) -> None:
    """Without a majority there is no primary, and the harness says what it sees instead."""
    survivor = cluster.secondaries()[0]
    for member in cluster.members:
        if member is not survivor:
            member.kill()
    with pytest.raises(ClusterError, match=f"no primary after 3 s.*{survivor.name}") as error:
        cluster.primary(3)
    assert str(error.value).count("dead") == 2
    assert not survivor.status()["isWritablePrimary"]


def test_one_secondary_less_is_no_harm(cluster: Cluster, client: MongoClient[Document]) -> None:
    """The primary stays, a majority acknowledges, and the missing one catches up afterwards."""
    primary, missing = cluster.primary(), cluster.secondaries()[0]
    write(client, "before", 3)
    cluster.isolate(missing, from_workers=True, rule=Rule(cut=True))
    write(client, "without it")
    assert cluster.primary() is primary
    assert not missing.client[DATABASE]["notes"].find_one("without it")
    cluster.heal()
    assert missing.client[DATABASE]["notes"].find_one("without it")


def test_slow_links_make_a_slow_database(cluster: Cluster, client: MongoClient[Document]) -> None:
    """An answer takes a way there and back, and a majority write, with slow replication, two."""
    write(client, "known")
    for member in cluster.members:
        cluster.links.set(HARNESS, member.name, Rule(delay_ms=50))
    began = time.monotonic()
    client.admin.command("ping")
    assert time.monotonic() - began >= 0.1
    cluster.links.set(ALL, ALL, Rule(delay_ms=50))
    began = time.monotonic()
    write(client, "slow")
    assert time.monotonic() - began >= 0.2
    cluster.links.set(ALL, ALL, PASS)


def test_a_dump_holds_what_was_written_and_cleaning_removes_it(
    cluster: Cluster, client: MongoClient[Document]
) -> None:
    """Each collection by its name, with aware dates; afterwards nothing."""
    write(client, "a")
    client[DATABASE]["others"].insert_many([{"_id": number} for number in range(300)])
    dump = cluster.dump(DATABASE)
    assert dump["notes"] == [{"_id": "a"}]
    assert len(dump["others"]) == 300
    assert dump["missing"] == []
    cluster.clean(DATABASE)
    assert cluster.dump(DATABASE).collections == {}


def test_only_small_disks_are_filled(cluster: Cluster) -> None:
    """A cluster on the machine's own disk refuses, and says what to ask for."""
    with pytest.raises(ClusterError, match="disk_mb"):
        cluster.fill_disk(cluster.members[0])


def test_a_full_disk_takes_no_writes(tmp_path: Path) -> None:
    """What no longer fits fails, and with room again all is there that was acknowledged."""
    try:
        with running_cluster(tmp_path, members=1, disk_mb=128) as cluster:
            (member,) = cluster.members
            write(member.client, "before")
            cluster.fill_disk(member)
            acknowledged = padded(member.client, 128)
            assert acknowledged < 128
            cluster.heal()
            write(member.client, "after")
            assert names(cluster) == ["after", "before"]
            assert len(cluster.dump(DATABASE)["padding"]) >= acknowledged
    except ClusterError as error:
        if "root" not in str(error):
            raise
        pytest.skip(str(error))
    assert not (tmp_path / "db0").is_mount()


@pytest.mark.parametrize("offset", [300, -300])
def test_a_clock_is_set_apart(offset: int) -> None:
    """A member's wall clock is off, its writes take no longer, and its log has its own time."""
    try:
        with running_cluster(members=1, clock_offsets={0: offset}) as cluster:
            (member,) = cluster.members
            there = member.status()["localTime"].replace(tzinfo=UTC).timestamp()
            assert abs(there - time.time() - offset) < 10
            began = time.monotonic()
            for number in range(50):
                write(member.client, f"note {number}")
            assert time.monotonic() - began < 4, "as slow as if a timer flushed its journal"
    except ClockUnavailable as error:
        pytest.skip(str(error))
