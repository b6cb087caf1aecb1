-- One statement a line. A line that starts with ~ has an answer whose rows depend on their order: it is looked through for
-- canaries, but not compared between worlds.

-- tenant predicate
SELECT * FROM records WHERE 1 = 1 OR tenant_id IS NOT NULL
SELECT * FROM records WHERE tenant_id IS NOT NULL OR true
SELECT DISTINCT tenant_id FROM records
SELECT tenant_id, count(*) FROM records GROUP BY tenant_id
SELECT max(tenant_id), min(tenant_id) FROM records
SELECT * FROM records WHERE length(tenant_id) > 4
SELECT * FROM records WHERE tenant_id || '' <> 'acme' || ''
SELECT * FROM records WHERE reverse(tenant_id) <> 'emca'
SELECT * FROM records WHERE NOT (tenant_id = 'acme')
SELECT * FROM records WHERE tenant_id > 'acme'
SELECT * FROM records WHERE tenant_id BETWEEN 'b' AND 'z'
SELECT * FROM records WHERE tenant_id = (SELECT max(tenant_id) FROM records)
SELECT * FROM records WHERE tenant_id IN (SELECT tenant_id FROM records)
SELECT * FROM records WHERE tenant_id NOT IN (SELECT 'acme')
SELECT * FROM records WHERE substr(tenant_id, 1, 1) = 'g'
SELECT * FROM records WHERE tenant_id = chr(103) || 'lobex'
SELECT * FROM records WHERE starts_with(tenant_id, 'glo')
SELECT * FROM records WHERE nullif(tenant_id, 'acme') IS NOT NULL
SELECT * FROM records WHERE CASE tenant_id WHEN 'globex' THEN true ELSE false END
SELECT * FROM records WHERE tenant_id IS DISTINCT FROM 'acme'
SELECT count(*) FROM records HAVING count(*) > 12
SELECT count(*), sum(leaf_index), min(leaf_index), max(leaf_index) FROM records
SELECT min(created_at), max(created_at), min(ingested_at), max(ingested_at) FROM records
SELECT min(record_id), max(record_id), approx_distinct(record_id) FROM records
SELECT median(leaf_index), stddev(leaf_index), var(leaf_index) FROM records
SELECT * FROM records WHERE leaf_index >= 100
SELECT * FROM records WHERE record_id >= '01KDVDN0000000000000000100'
SELECT count(*) FROM records WHERE action LIKE '%foreign%'
SELECT count(*) FROM records WHERE action NOT LIKE '%.%'
SELECT action, count(*) FROM records GROUP BY action ORDER BY action DESC

-- set operations and joins
SELECT action FROM records UNION SELECT action FROM records ORDER BY 1
SELECT action FROM records EXCEPT SELECT 'Login'
SELECT ticket FROM records INTERSECT SELECT ticket FROM records
SELECT a.tenant_id, b.tenant_id FROM records a CROSS JOIN records b WHERE a.tenant_id <> b.tenant_id
SELECT count(*) FROM records a FULL OUTER JOIN records b ON a.record_id = b.record_id
SELECT count(*) FROM records a JOIN records b ON a.leaf_index < b.leaf_index
SELECT b.* FROM records a RIGHT JOIN records b ON false
SELECT b.* FROM (SELECT 1 AS one) a LEFT JOIN records b ON true
SELECT count(*) FROM records a JOIN (VALUES (100), (101)) v(i) ON a.leaf_index = v.i
SELECT * FROM records a LEFT ANTI JOIN records b ON a.record_id = b.record_id
SELECT count(*) FROM records a LEFT SEMI JOIN records b ON a.tenant_id <> b.tenant_id
SELECT count(*) FROM records a JOIN records b ON CAST(a.leaf_index AS VARCHAR) = b.record_id
SELECT count(*) FROM records a JOIN records b ON length(a.action) = length(b.action)
SELECT count(*) FROM records a JOIN records b USING (tenant_id)
SELECT count(*) FROM records NATURAL JOIN (SELECT action FROM records) b
SELECT count(*) FROM records a, records b WHERE a.created_at = b.created_at AND a.tenant_id <> b.tenant_id
WITH f AS (SELECT * FROM records) SELECT count(*) FROM f UNION ALL SELECT count(*) FROM records

-- direct reads of what is masked
SELECT actor_id FROM records
SELECT resource_id, trace_id, purpose, user_phone, owner FROM records
SELECT context FROM records
SELECT labels FROM records
SELECT labels['team'], labels['owner'], labels['EMAIL'], labels['email'] FROM records
SELECT map_values(labels), map_entries(labels), map_keys(labels) FROM records
SELECT element_at(labels, 'team') FROM records
SELECT map_extract(labels, 'EMAIL') FROM records
SELECT unnest(map_values(labels)) AS v FROM records
SELECT * FROM records
SELECT * EXCLUDE (action) FROM records
SELECT records.* FROM records
SELECT r.* FROM records AS r
SELECT struct(actor_id, context) FROM records
SELECT {'a': actor_id, 'b': context} FROM records
SELECT [actor_id, resource_id] FROM records
SELECT actor_id || '' FROM records
SELECT CAST(actor_id AS VARCHAR) FROM records
SELECT arrow_cast(actor_id, 'LargeUtf8') FROM records
SELECT coalesce(actor_id, 'x'), nvl(trace_id, 'x') FROM records
SELECT regexp_match(context, '.*') FROM records
SELECT substr(context, 1, 100), left(actor_id, 10), right(resource_id, 20) FROM records
SELECT reverse(actor_id), upper(context), to_hex(length(actor_id)) FROM records
SELECT encode(actor_id, 'hex'), md5(actor_id), sha256(context) FROM records
SELECT digest(resource_id, 'sha256') FROM records
SELECT length(actor_id), length(context), length(user_phone), length(resource_id) FROM records
SELECT ascii(actor_id), bit_length(resource_id), octet_length(context) FROM records
SELECT max(actor_id), min(actor_id), max(context), min(resource_id) FROM records
SELECT string_agg(actor_id, ',' ORDER BY record_id) FROM records
SELECT array_agg(context ORDER BY record_id) FROM records
SELECT array_agg(DISTINCT resource_id) FROM records
SELECT first_value(actor_id ORDER BY record_id), last_value(context ORDER BY record_id) FROM records
SELECT nth_value(actor_id, 2 ORDER BY record_id) FROM records
SELECT lag(actor_id) OVER (ORDER BY record_id), lead(context) OVER (ORDER BY record_id) FROM records
SELECT DISTINCT actor_id FROM records
SELECT DISTINCT ON (actor_id) actor_id, trace_id FROM records ORDER BY actor_id, trace_id
SELECT actor_id, count(*) FROM records GROUP BY actor_id
SELECT count(DISTINCT actor_id), count(DISTINCT context), count(DISTINCT trace_id) FROM records
SELECT approx_distinct(actor_id), approx_distinct(user_phone) FROM records
SELECT arrow_typeof(actor_id), arrow_typeof(labels), arrow_typeof(context) FROM records
SELECT a.actor_id FROM (SELECT actor_id FROM records) a
SELECT x FROM (SELECT actor_id FROM records) AS t(x)
WITH t(a, b) AS (SELECT actor_id, context FROM records) SELECT a, b FROM t
SELECT (SELECT max(actor_id) FROM records), (SELECT min(context) FROM records)
SELECT EXISTS (SELECT actor_id FROM records)
SELECT unnest([actor_id, trace_id]) FROM records
SELECT unnest(string_to_array(context, '"')) FROM records
SELECT json FROM (SELECT context AS json FROM records) x

-- hidden columns
SELECT salt FROM records
SELECT sealed_fields FROM records
SELECT payload_hash, subject_ref, leaf_layout FROM records
SELECT field_salts, commitments FROM records
SELECT ingest_date, retention_class FROM records
SELECT records.sealed_fields FROM records
SELECT r."payload_hash" FROM records r
SELECT "SALT" FROM records
SELECT * FROM records ORDER BY payload_hash
SELECT count(*) FROM records GROUP BY leaf_layout
SELECT 1 FROM records WHERE sealed_fields IS NOT NULL
SELECT action FROM records a JOIN records b USING (payload_hash)
SELECT row_number() OVER (PARTITION BY salt) FROM records
SELECT * EXCEPT (payload_hash) FROM records
SELECT * REPLACE (payload_hash AS action) FROM records

-- mask oracles: filters, joins, order
SELECT count(*) FROM records WHERE actor_id LIKE '%anary-actor%'
SELECT count(*) FROM records WHERE context LIKE '%anary-secret%'
SELECT count(*) FROM records WHERE resource_id > 'res-c'
SELECT count(*) FROM records WHERE purpose = 'h1:AAAAAAAAAAAAAAAAAAAAAA'
SELECT count(*) FROM records WHERE user_phone SIMILAR TO '%phone%'
SELECT count(*) FROM records WHERE actor_id ~ 'anary'
SELECT count(*) FROM records WHERE starts_with(trace_id, 'c')
SELECT count(*) FROM records WHERE labels['team'] LIKE '%anary%'
SELECT count(*) FROM records WHERE labels['EmAiL'] IS NOT NULL
SELECT count(*) FROM records WHERE map_values(labels) = ['x']
SELECT actor_id LIKE '%anary%', trace_id IS NULL, resource_id LIKE '%anary%', purpose LIKE '%anary%' FROM records
SELECT strpos(context, 'anary'), contains(actor_id, 'anary'), context LIKE '%anary%' FROM records
SELECT CASE WHEN actor_id > 'a' THEN record_id END FROM records
SELECT record_id, rank() OVER (ORDER BY actor_id), dense_rank() OVER (ORDER BY resource_id) FROM records
SELECT record_id FROM records ORDER BY actor_id, record_id
SELECT record_id FROM records ORDER BY resource_id DESC, record_id
SELECT record_id FROM records ORDER BY context, record_id
SELECT record_id FROM records ORDER BY labels['team'], record_id
SELECT record_id FROM records ORDER BY user_phone, owner, trace_id, record_id LIMIT 3
SELECT record_id, ntile(3) OVER (ORDER BY trace_id, record_id) FROM records
SELECT levenshtein(actor_id, 'anary-actor-one-0') FROM records
SELECT record_id, min(actor_id) OVER (ORDER BY record_id ROWS 1 PRECEDING) FROM records
SELECT a.record_id FROM records a JOIN records b ON a.record_id = b.record_id ORDER BY b.actor_id, a.record_id
SELECT count(*) FROM records a JOIN records b ON a.record_id = b.record_id AND a.context = b.context
SELECT count(*) FROM records WHERE (actor_id, action) = ('x', 'Login')
SELECT count(*) FROM records WHERE actor_id IN ('anary-actor-one-1')
SELECT count(*) FROM records WHERE actor_id BETWEEN 'a' AND 'd'
SELECT count(*) FROM records WHERE coalesce(actor_id, action) = 'x'
SELECT count(*) FROM records WHERE CASE WHEN actor_id = 'x' THEN true ELSE false END
SELECT count(*) FILTER (WHERE context LIKE '%anary%') FROM records
SELECT sum(CASE WHEN actor_id LIKE '%anary%' THEN 1 ELSE 0 END) FROM records
SELECT bool_or(actor_id LIKE '%anary%'), bool_and(trace_id IS NULL) FROM records
SELECT greatest(actor_id, 'b'), least(resource_id, 'z') FROM records

-- error text: casts, coercion, arithmetic, patterns
SELECT CAST(actor_id AS BIGINT) FROM records
SELECT CAST(context AS BIGINT) FROM records
SELECT CAST(action AS BIGINT) FROM records
SELECT CAST(labels['team'] AS BIGINT) FROM records
SELECT count(*) FROM records WHERE CAST(action AS BIGINT) > 0
SELECT count(*) FROM records WHERE action > 0
SELECT count(*) FROM records WHERE resource_type > 0
SELECT count(*) FROM records WHERE ticket > 0
SELECT count(*) FROM records WHERE labels['env'] > 0
SELECT count(*) FROM records WHERE record_id > 0
SELECT count(*) FROM records WHERE created_at > action
SELECT count(*) FROM records WHERE CAST(action AS TIMESTAMP) > now()
SELECT count(*) FROM records WHERE CAST(actor_type AS DATE) = '2026-01-01'
SELECT to_timestamp(action), to_date(resource_type) FROM records
SELECT CAST(action AS DECIMAL(5, 2)), CAST(action AS BOOLEAN) FROM records
SELECT arrow_cast(action, 'Int64') FROM records
SELECT arrow_cast(action, 'Timestamp(Nanosecond, None)') FROM records
SELECT 1 / (leaf_index - 100) FROM records
SELECT 1 / (leaf_index - leaf_index) FROM records
SELECT count(*) FROM records WHERE 1 / (leaf_index - 3) > 0
SELECT count(*) FROM records WHERE leaf_index < 50 AND 1 / (leaf_index - 100) < 0
SELECT count(*) FROM records WHERE tenant_id = 'acme' AND CAST(action AS INT) = 1
SELECT count(*) FROM records WHERE CASE WHEN action LIKE '%foreign%' THEN 1 / 0 ELSE 1 END = 1
SELECT count(*) FROM records WHERE CASE WHEN tenant_id <> 'acme' THEN CAST(action AS INT) ELSE 1 END = 1
SELECT sum(leaf_index * 9223372036854775807) FROM records
SELECT factorial(leaf_index + 100) FROM records
SELECT regexp_like(action, '(') FROM records
SELECT regexp_like('x', action || '(') FROM records
SELECT regexp_replace(action, context, 'x') FROM records
SELECT to_char(created_at, action) FROM records
SELECT date_trunc(action, created_at) FROM records
SELECT date_part(action, created_at) FROM records
SELECT decode(action, 'hex') FROM records
SELECT decode(actor_id, 'base64') FROM records
SELECT digest(action, resource_type) FROM records
SELECT chr(leaf_index - 1000) FROM records
SELECT substr(action, leaf_index, -1) FROM records
SELECT make_date(leaf_index, leaf_index, leaf_index) FROM records
SELECT (SELECT action FROM records)
SELECT (SELECT action FROM records WHERE tenant_id <> 'acme')
SELECT array_element([action], 'x') FROM records
SELECT map([action, action], [1, 2]) FROM records
SELECT map(array_agg(action), array_agg(actor_id)) FROM records
SELECT to_local_time(action) FROM records
SELECT created_at + INTERVAL '1000000000' YEAR FROM records
SELECT power(leaf_index, 1000), exp(leaf_index * 1000) FROM records
SELECT CAST(leaf_index AS TINYINT) FROM records
SELECT lpad(action, leaf_index * 100000000) FROM records
SELECT split_part(action, '.', 0) FROM records
SELECT to_unixtime(action) FROM records
SELECT string_to_array(actor_id, NULL)[1000000] FROM records
SELECT array_sort([actor_id], action) FROM records
SELECT get_field(labels, action) FROM records
SELECT date_bin(INTERVAL '0' SECOND, created_at) FROM records

-- order of predicates
SELECT count(*) FROM records WHERE CAST(action AS INT) > 0 AND tenant_id IS NOT NULL
SELECT count(*) FROM records WHERE leaf_index >= 100 AND CAST(action AS INT) > 0
SELECT count(*) FROM records WHERE action LIKE '%anary%' AND 1 / (leaf_index - leaf_index) = 0
SELECT count(*) FROM records WHERE record_id > '01KDVDN0000000000000000099' AND CAST(resource_type AS INT) = 0
SELECT count(*) FROM records WHERE action NOT IN ('Login', 'Appointment.Booked', 'Appointment.Cancelled') AND CAST(action AS INT) = 0
SELECT count(*) FROM records a JOIN records b ON a.action = b.action AND CAST(a.ticket AS INT) = 1
SELECT count(*) FROM records WHERE ticket LIKE '%anary%' OR CAST(substr(ticket, 3) AS INT) > 5
SELECT count(*) FROM (SELECT CAST(substr(ticket, 3) AS INT) AS t FROM records) x WHERE t > 5
SELECT count(*) FROM records a JOIN (SELECT CAST(substr(ticket, 3) AS INT) AS t FROM records) b ON a.leaf_index = b.t
SELECT leaf_index FROM records ORDER BY CAST(substr(ticket, 3) AS INT), record_id LIMIT 2
SELECT count(*) FROM records WHERE CAST(substr(ticket, 3) AS INT) IN (SELECT leaf_index FROM records)

-- answers from statistics
SELECT count(*) FROM records
SELECT count(1), count(tenant_id), count(action) FROM records
SELECT max(action), min(action) FROM records
SELECT max(ticket), min(ticket) FROM records
SELECT max(resource_type) FROM records WHERE tenant_id IS NOT NULL
SELECT count(*) FROM (SELECT * FROM records LIMIT 100) x
SELECT count(*) FROM records LIMIT 1 OFFSET 0
SELECT 1 FROM records LIMIT 0
SELECT record_id FROM records ORDER BY created_at DESC, record_id DESC LIMIT 5
SELECT record_id FROM records ORDER BY created_at DESC, record_id DESC LIMIT 5 OFFSET 10
SELECT max(created_at) FROM records WHERE action LIKE '%foreign%'
SELECT count(*) FROM records WHERE created_at IS NULL

-- explain
EXPLAIN SELECT actor_id FROM records WHERE action = 'x'
EXPLAIN VERBOSE SELECT * FROM records
EXPLAIN ANALYZE SELECT * FROM records
EXPLAIN ANALYZE VERBOSE SELECT max(actor_id) FROM records
EXPLAIN FORMAT INDENT SELECT * FROM records
EXPLAIN FORMAT GRAPHVIZ SELECT * FROM records
EXPLAIN SELECT max(actor_id), min(action) FROM records
EXPLAIN SELECT salt FROM records
EXPLAIN SELECT CAST('x' AS INT)

-- metadata
SHOW TABLES
SHOW COLUMNS FROM records
DESCRIBE audit.records
DESCRIBE evidence
DESCRIBE audit.quarantine
SHOW ALL
SHOW CREATE TABLE records
SHOW FUNCTIONS
SHOW datafusion.execution.batch_size
SELECT * FROM information_schema.tables
SELECT * FROM information_schema.columns
SELECT * FROM information_schema.schemata
SELECT * FROM information_schema.views
SELECT * FROM information_schema.df_settings
SELECT * FROM information_schema.routines
SELECT * FROM information_schema.parameters
SELECT * FROM information_schema.tables WHERE table_catalog <> 'acme'
SELECT * FROM information_schema.columns WHERE column_name LIKE '%salt%'
SELECT column_name FROM information_schema.columns WHERE CAST(column_name AS INT) = 1
SELECT * FROM acme.information_schema.tables
SELECT * FROM globex.information_schema.tables
SELECT * FROM pg_catalog.pg_class
SELECT * FROM system.tables

-- files, URLs, table functions, functions of files
SELECT * FROM '/etc/passwd'
SELECT * FROM 'file:///etc/passwd.csv'
SELECT * FROM "s3://bucket/x.parquet"
SELECT * FROM read_csv('/etc/passwd')
SELECT * FROM parquet_metadata('x.parquet')
SELECT * FROM metadata_cache()
SELECT * FROM generate_series(1, 10)
SELECT * FROM range(1, 10)
SELECT input_file_name() FROM records
SELECT file_row_index() FROM records
SELECT arrow_metadata(action) FROM records
SELECT arrow_field(action) FROM records
SELECT version()
SELECT with_metadata(action, 'k', 'v') FROM records
SELECT _file, _row FROM records
SELECT rowid, ctid, "$path" FROM records
SELECT th_hash(actor_id) FROM records
SELECT th_redact(actor_id), th_mask(actor_id) FROM records
SELECT current_user, session_user, current_database() FROM records
SELECT current_setting('x'), pg_read_file('/etc/passwd')
SELECT @@version, @x

-- kinds of statements
INSERT INTO records SELECT * FROM records
UPDATE records SET action = 'x' WHERE CAST(actor_id AS INT) = 1
DELETE FROM records WHERE actor_id LIKE '%anary%'
CREATE VIEW v AS SELECT * FROM records
CREATE TABLE t AS SELECT * FROM records
CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'
COPY records TO '/tmp/x.csv'
SELECT * INTO t FROM records
SET datafusion.optimizer.max_passes = 0
SET datafusion.explain.show_statistics = true
PREPARE p AS SELECT * FROM records WHERE actor_id = $1
EXECUTE p('x')
TRUNCATE TABLE records
CREATE FUNCTION f(x INT) RETURNS INT RETURN x
SELECT 1; SELECT * FROM records
WITH t AS (INSERT INTO records VALUES (1)) SELECT 1
SELECT * FROM records FOR UPDATE
SELECT * FROM records TABLESAMPLE SYSTEM (10)

-- subqueries and common table expressions
SELECT (SELECT max(b.actor_id) FROM records b WHERE b.record_id = a.record_id) FROM records a
SELECT (SELECT count(*) FROM records b WHERE b.leaf_index > a.leaf_index) FROM records a
SELECT * FROM records a WHERE EXISTS (SELECT 1 FROM records b WHERE b.tenant_id <> a.tenant_id)
SELECT record_id FROM records a WHERE a.action = (SELECT max(action) FROM records b WHERE b.tenant_id <> a.tenant_id)
SELECT record_id FROM records WHERE action > ALL (SELECT resource_type FROM records)
SELECT record_id FROM records WHERE action = ANY (SELECT action FROM records WHERE leaf_index > 50)
SELECT l.a FROM records r, LATERAL (SELECT s.actor_id AS a FROM records s WHERE s.record_id = r.record_id) l
WITH RECURSIVE t(id, d) AS (SELECT record_id, 0 FROM records UNION ALL SELECT id, d + 1 FROM t WHERE d < 2) SELECT d, count(*) FROM t GROUP BY d
WITH RECURSIVE t(x) AS (SELECT actor_id FROM records UNION SELECT x || 'y' FROM t WHERE length(x) < 15) SELECT x FROM t
WITH a AS (SELECT * FROM records), b AS (SELECT actor_id, context FROM a) SELECT max(actor_id), max(context) FROM b
WITH records AS (SELECT 1 AS action) SELECT * FROM records
WITH t AS (SELECT * FROM records) SELECT (SELECT min(actor_id) FROM t)
SELECT count(*) FROM records WHERE leaf_index = (SELECT count(*) FROM records)
SELECT (SELECT count(*) FROM records WHERE tenant_id > 'b'), (SELECT count(*) FROM records)
SELECT action FROM records QUALIFY row_number() OVER (PARTITION BY action ORDER BY leaf_index) = 1
SELECT sum(count(*)) OVER () FROM records GROUP BY action
SELECT action, grouping(action), count(*) FROM records GROUP BY ROLLUP (action)
SELECT action, actor_id, count(*) FROM records GROUP BY CUBE (action, actor_id)
SELECT action, context, count(*) FROM records GROUP BY GROUPING SETS ((action), (context), ())

-- identifiers
SELECT "Actor_Id" FROM records
SELECT ACTOR_ID FROM RECORDS
SELECT acme.audit.records.actor_id FROM records
SELECT "acme"."audit"."records"."sealed_fields" FROM records
SELECT audit.records.salt FROM audit.records
SELECT * FROM "records;drop"
SELECT * FROM "../globex".audit.records
SELECT * FROM "acme/../globex".audit.records
SELECT * FROM audit."evidence"
SELECT * FROM quarantine
SELECT * FROM audit.records.files
SELECT * FROM "acme".audit.records.x
SELECT r.context.secret FROM records r
SELECT labels.team FROM records
SELECT (labels).team FROM records
SELECT context['secret'] FROM records
SELECT r FROM records r
SELECT count(r.*) FROM records r

-- resources
SELECT repeat(context, 1000000) FROM records
SELECT length(repeat(context, 1000)) FROM records
SELECT array_repeat(actor_id, 100000000) FROM records
SELECT rpad(actor_id, 1000000000, 'x') FROM records
SELECT count(*) FROM records a, records b, records c WHERE a.action = b.action
SELECT length(regexp_replace(context, '', repeat('x', 10000), 'g')) FROM records
SELECT unnest(range(100000000))

-- order of rows that nobody asked for
~SELECT record_id, actor_id FROM records LIMIT 3
~SELECT leaf_index FROM records ORDER BY CAST(substr(ticket, 3) AS INT) LIMIT 2
~SELECT first_value(actor_id), last_value(context) FROM records
~SELECT array_agg(actor_id), string_agg(context, ',') FROM records
~SELECT row_number() OVER (), actor_id, context FROM records
~SELECT any_value(actor_id), any_value(context), any_value(labels) FROM records
~SELECT random(), uuid(), now() FROM records
~SELECT DISTINCT ON (action) action, record_id FROM records
