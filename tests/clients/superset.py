"""The calls that Superset makes, through flightsql-dbapi and its SQLAlchemy dialect. Prints what came back as JSON."""

import json
import os

import flightsql.sqlalchemy  # noqa: F401 - registers the dialect
import sqlalchemy
from flightsql import FlightSQLClient, connect

HOST, PORT = "127.0.0.1", int(os.environ["PORT"])
TOKEN = os.environ["TOKEN"]
COUNT = "SELECT count(*) AS n FROM audit.records WHERE action = ?"


def rows(client, info):
    return client.do_get(info.endpoints[0].ticket).read_all()


def bound(client, value):
    cursor = connect(client).cursor()
    cursor.execute("SELECT ? AS p", [value])
    return cursor.fetchall()[0][0]


client = FlightSQLClient(host=HOST, port=PORT, token=TOKEN, insecure=True)
by_password = FlightSQLClient(host=HOST, port=PORT, user="any", password=TOKEN, insecure=True)
cursor = connect(client).cursor()
cursor.execute(COUNT, ["ec2.DescribeInstances"])

engine = sqlalchemy.create_engine(f"datafusion+flightsql://{HOST}:{PORT}?insecure=True&token={TOKEN}")
inspector = sqlalchemy.inspect(engine)
records = sqlalchemy.Table("records", sqlalchemy.MetaData(), autoload_with=engine, schema="audit")
number = sqlalchemy.func.count().label("n")
top = sqlalchemy.select(records.c.action, number).where(records.c.action.like("ec2.%")).group_by(records.c.action)
chart = (
    "SELECT date_trunc('day', created_at) AS __timestamp, count(*) AS \"COUNT(*)\" "
    "FROM (SELECT * FROM audit.records) AS virtual_table GROUP BY 1 LIMIT 1000"
)
with engine.connect() as connection:
    print(
        json.dumps(
            {
                "sql_info": rows(client, client.get_sql_info([0, 2, 3, 504])).num_rows,
                "tables": rows(client, client.get_tables(include_schema=True)).num_rows,
                "password": rows(by_password, by_password.execute("SELECT 1 AS a")).to_pylist(),
                "dbapi": cursor.fetchall(),
                "bound": [bound(client, value) for value in (1, 1.5, "x", True)],
                "schemas": inspector.get_schema_names(),
                "names": inspector.get_table_names(schema="audit"),
                "has": [inspector.has_table(name, schema="audit") for name in ("records", "nothing")],
                "columns": [column["name"] for column in inspector.get_columns("records", schema="audit")],
                "keys": inspector.get_foreign_keys("records", schema="audit"),
                "top": [list(row) for row in connection.execute(top.order_by(sqlalchemy.desc("n")).limit(2))],
                "chart": sum(row[1] for row in connection.execute(sqlalchemy.text(chart))),
            }
        )
    )
