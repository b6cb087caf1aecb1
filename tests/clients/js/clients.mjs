// One query, and what else each client can do, through every Flight SQL client on npm that speaks the protocol.
// Prints what came back as JSON.
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

// The packages lie where the test installed them, not beside this file.
const require = createRequire(pathToFileURL(`${process.cwd()}/`));
const { tableFromIPC } = require("apache-arrow");

const host = "127.0.0.1";
const port = Number(process.env.PORT);
const token = process.env.TOKEN;
const TOP = "SELECT action, count(*) AS n FROM audit.records GROUP BY action ORDER BY n DESC LIMIT 1";
const ALL = "SELECT * FROM audit.records";

const first = (rows) => ({ action: rows[0].action, n: Number(rows[0].n) });
const shape = (table) => [table.numRows, table.schema.fields.length];
const refused = (asked) => asked.then(() => null, (error) => String(error.message ?? error));

async function gizmo(login) {
  const { FlightSQLClient } = require("@gizmodata/gizmosql-client");
  const client = new FlightSQLClient({ host, port, plaintext: true, ...login });
  const found = {
    top: first((await client.execute(TOP)).toArray()),
    all: shape(await client.execute(ALL)),
    catalogs: await client.getCatalogs(),
    tables: (await client.getTables()).map((table) => table.tableName),
    refused: await refused(client.execute("SELECT nothing FROM audit.records")),
  };
  await client.close();
  return found;
}

// Its other calls send commands that are not wrapped as Flight SQL wants them, and it does not keep the token that a
// login gives it.
async function firetiger() {
  const { FlightSQLClient } = require("@firetiger-oss/flight-sql-client");
  const client = new FlightSQLClient({ host, port, plaintext: true, token });
  const found = {
    top: first((await client.execute(TOP)).toArray()),
    all: shape(await client.execute(ALL)),
    refused: await refused(client.execute("SELECT nothing FROM audit.records")),
  };
  await client.close();
  return found;
}

async function lakehouse(login) {
  const { createFlightSqlClient } = require("@lakehouse-rs/flight-sql-client");
  const client = await createFlightSqlClient({ host, port, tls: false, headers: [], ...login });
  const column = (bytes, name) => [...tableFromIPC(bytes).getChild(name)];
  return {
    top: first(tableFromIPC(await client.query(TOP)).toArray()),
    all: shape(tableFromIPC(await client.query(ALL))),
    catalogs: column(await client.getCatalogs(), "catalog_name"),
    tables: column(await client.getTables({ includeSchema: true }), "table_name"),
    refused: await refused(client.query("SELECT nothing FROM audit.records")),
  };
}

async function lance() {
  const { Client } = require("@lancedb/arrow-flight-sql-client");
  const client = await Client.connect({ host: `${host}:${port}`, username: "any", password: token, insecure: true });
  const rows = async (sql) => (await client.query(sql)).collectToObjects();
  return { top: first(await rows(TOP)), all: [(await rows(ALL)).length, null] };
}

const password = { username: "any", password: token };
console.log(
  JSON.stringify({
    "gizmo, token": await gizmo({ token }),
    "gizmo, password": await gizmo(password),
    "firetiger, token": await firetiger(),
    "lakehouse, token": await lakehouse({ token }),
    "lakehouse, password": await lakehouse(password),
    "lance, password": await lance(),
  }),
);
process.exit(0); // Some of them keep their connection.
