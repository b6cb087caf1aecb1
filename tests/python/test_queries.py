"""What Python users do: group, filter, page, bind, and find that they are alone in the database."""

import collections
import json

import adbc_driver_manager
import polars
import pytest

from conftest import EVENTS


def expected_actions():
    actions = collections.Counter()
    for path in EVENTS.glob("*.json"):
        for event in json.loads(path.read_text()):
            actions[event["eventSource"].split(".")[0] + "." + event["eventName"]] += 1
    return actions


@pytest.mark.parametrize("tenant,silo", [("acme", "eu"), ("globex", "us")])
@pytest.mark.parametrize("role", ["Reader", "Investigator"])
def test_group_by_action_counts_the_real_events(world, tenant, silo, role):
    table = world.query("SELECT action, count(*) AS n FROM audit.records GROUP BY action", tenant, silo, role)
    found = dict(zip(table["action"].to_pylist(), table["n"].to_pylist()))
    assert sum(found.values()) == 310
    assert found == dict(expected_actions())


def test_a_reader_sees_masked_actors_and_an_investigator_the_clear_ones(world):
    sql = "SELECT DISTINCT actor_id FROM audit.records ORDER BY actor_id"
    reader = world.query(sql, role="Reader")["actor_id"].to_pylist()
    investigator = world.query(sql, role="Investigator")["actor_id"].to_pylist()
    assert len(reader) == len(investigator) > 1
    assert all(actor.startswith("h1:") for actor in reader)
    assert all(actor.startswith("arn:aws:") for actor in investigator)


def test_masked_columns_cannot_be_filtered_by(world):
    with pytest.raises(adbc_driver_manager.Error, match="actor_id"):
        world.query("SELECT count(*) FROM audit.records WHERE actor_id LIKE 'arn:aws:iam::%'", role="Reader")


def test_parameters_are_bound(world):
    with world.connect("acme", "eu", "Reader") as connection, connection.cursor() as cursor:
        cursor.execute("SELECT count(*) AS n FROM audit.records WHERE action = ?", ("ec2.DescribeInstances",))
        assert cursor.fetchone()[0] == expected_actions()["ec2.DescribeInstances"]


def test_polars_reads_over_the_same_connection(world):
    with world.connect("acme", "eu", "Investigator") as connection:
        frame = polars.read_database("SELECT record_id, created_at, labels FROM audit.records", connection)
    assert frame.height == 310


def test_only_the_own_catalog_exists(world):
    with world.connect("acme", "eu", "Reader") as connection:
        objects = connection.adbc_get_objects(depth="tables").read_all().to_pylist()
    assert [catalog["catalog_name"] for catalog in objects] == ["acme"]
    tables = [t["table_name"] for s in objects[0]["catalog_db_schemas"] for t in s["db_schema_tables"]]
    assert "records" in tables and "quarantine" not in tables and "evidence" not in tables


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT * FROM globex.audit.records",
        "SELECT * FROM nobody.audit.records",
        "SELECT count(*) FROM audit.records WHERE tenant_id = 'globex'",
        "SELECT count(*) FROM audit.records WHERE tenant_id IN ('acme', 'globex')",
    ],
)
def test_another_tenant_is_refused_whether_or_not_it_exists(world, sql):
    with pytest.raises(adbc_driver_manager.Error, match="(?i)cross-tenant|another tenant"):
        world.query(sql)


@pytest.mark.parametrize(
    "sql",
    [
        "INSERT INTO audit.records SELECT * FROM audit.records",
        "DELETE FROM audit.records",
        "DROP TABLE audit.records",
        "COPY audit.records TO '/tmp/out.parquet'",
        "CREATE EXTERNAL TABLE t STORED AS PARQUET LOCATION '/etc/passwd'",
        "SET datafusion.execution.batch_size = 1",
        "EXPLAIN ANALYZE SELECT * FROM audit.records",
        "SELECT * FROM audit.records; SELECT 1",
    ],
)
def test_nothing_but_one_reading_query_runs(world, sql):
    with pytest.raises(adbc_driver_manager.Error):
        world.query(sql)
    assert world.query("SELECT count(*) AS n FROM audit.records")["n"].to_pylist() == [310]


def test_a_token_of_one_tenant_is_nobody_at_the_other_silo(world):
    with pytest.raises(adbc_driver_manager.Error, match="(?i)residency|silo"):
        world.query("SELECT 1", tenant="acme", silo="us")


def test_explain_names_the_injected_rules(world):
    plan = str(world.query("EXPLAIN SELECT actor_id FROM audit.records", role="Reader").to_pylist())
    assert "RLS.Tenant" in plan and "Mask.Reader" in plan


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_answers_are_compressed_for_whoever_asks(world, codec):
    sql = "SELECT * FROM audit.records ORDER BY record_id"
    plain = world.query(sql)
    with world.connect("acme", "eu", "Investigator", codec) as connection, connection.cursor() as cursor:
        assert cursor.execute(sql).fetch_arrow_table().equals(plain)
    with world.connect("acme", "eu", "Investigator", "best") as connection, connection.cursor() as cursor:
        with pytest.raises(adbc_driver_manager.Error, match="lz4 or zstd"):
            cursor.execute("SELECT 1").fetchall()
