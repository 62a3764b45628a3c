-- execution.buffer-timeout.interval = 1 ms
-- execution.checkpointing.interval = 10000 ms
-- execution.checkpointing.mode = EXACTLY_ONCE
-- parallelism.default = 1
-- restart-strategy.exponential-delay.initial-backoff = 1 s
-- restart-strategy.exponential-delay.max-backoff = 10 s
-- restart-strategy.type = exponential-delay
-- table.exec.mini-batch.enabled = false
-- table.exec.state.ttl = 90000 s
-- table.exec.uid.generation = ALWAYS
-- table.local-time-zone = UTC

CREATE TEMPORARY TABLE `source` (
  `station` STRING,
  `gate` BIGINT,
  `event_time_ms` BIGINT,
  `event_id` STRING,
  `level` DOUBLE
) WITH (
  'connector' = 'kafka',
  'topic' = 'toy.readings.valid',
  'properties.bootstrap.servers' = '127.0.0.1:9092',
  'properties.security.protocol' = 'PLAINTEXT',
  'properties.group.id' = 'features.levels.66f9afd0',
  'properties.isolation.level' = 'read_committed',
  'properties.fetch.max.wait.ms' = '100',
  'properties.fetch.min.bytes' = '1',
  'scan.startup.mode' = 'specific-offsets',
  'scan.startup.specific-offsets' = 'partition:0,offset:12;partition:1,offset:40',
  'format' = 'json',
  'json.ignore-parse-errors' = 'true'
)

CREATE TEMPORARY TABLE `base` (
  `station` STRING,
  `gate` BIGINT,
  `tile` STRING,
  `n` BIGINT,
  `count__level` BIGINT,
  `max__level` DOUBLE,
  `sum__level` DOUBLE,
  `first__level` STRING,
  `last__level` STRING,
  `sumsq__level` DOUBLE,
  `clock_ms` BIGINT
) WITH (
  'connector' = 'kafka',
  'topic' = 'features.levels.base.7',
  'properties.bootstrap.servers' = '127.0.0.1:9092',
  'properties.security.protocol' = 'PLAINTEXT',
  'properties.group.id' = 'features.levels.66f9afd0',
  'properties.isolation.level' = 'read_committed',
  'scan.startup.mode' = 'earliest-offset',
  'format' = 'json'
)

CREATE TEMPORARY TABLE `tiles_300` (
  `station` STRING,
  `gate` BIGINT,
  `tile` STRING,
  `n` BIGINT,
  `count__level` BIGINT,
  `max__level` DOUBLE,
  `sum__level` DOUBLE,
  `clock_ms` BIGINT,
  PRIMARY KEY (`station`, `gate`, `tile`) NOT ENFORCED
) WITH (
  'connector' = 'upsert-kafka',
  'topic' = 'features.levels.66f9afd0',
  'properties.bootstrap.servers' = '127.0.0.1:9092',
  'properties.security.protocol' = 'PLAINTEXT',
  'sink.delivery-guarantee' = 'at-least-once',
  'properties.linger.ms' = '5',
  'key.format' = 'json',
  'value.format' = 'json'
)

CREATE TEMPORARY TABLE `tiles_1800` (
  `station` STRING,
  `gate` BIGINT,
  `tile` STRING,
  `n` BIGINT,
  `count__level` BIGINT,
  `first__level` STRING,
  `last__level` STRING,
  `sum__level` DOUBLE,
  `sumsq__level` DOUBLE,
  `clock_ms` BIGINT,
  PRIMARY KEY (`station`, `gate`, `tile`) NOT ENFORCED
) WITH (
  'connector' = 'upsert-kafka',
  'topic' = 'features.levels.66f9afd0',
  'properties.bootstrap.servers' = '127.0.0.1:9092',
  'properties.security.protocol' = 'PLAINTEXT',
  'sink.delivery-guarantee' = 'at-least-once',
  'properties.linger.ms' = '5',
  'key.format' = 'json',
  'value.format' = 'json'
)

INSERT INTO `tiles_300`
SELECT /*+ STATE_TTL('events' = '7200 s') */
  `station`,
  `gate`,
  `tile`,
  SUM(`n`) AS `n`,
  SUM(`count__level`) AS `count__level`,
  MAX(`max__level`) AS `max__level`,
  COALESCE(SUM(`sum__level`), 0) AS `sum__level`,
  MAX(`clock_ms`) AS `clock_ms`
FROM (SELECT
  `station`,
  `gate`,
  CONCAT('300/', CAST(`event_time_ms` / 300000 AS STRING)) AS `tile`,
  CAST(1 AS BIGINT) AS `n`,
  CASE WHEN `level` IS NULL THEN CAST(0 AS BIGINT) ELSE CAST(1 AS BIGINT) END AS `count__level`,
  CAST(`level` AS DOUBLE) AS `max__level`,
  CAST(`level` AS DOUBLE) AS `sum__level`,
  `event_time_ms` AS `clock_ms`
FROM `source`
WHERE `station` IS NOT NULL AND `gate` IS NOT NULL AND `event_time_ms` IS NOT NULL
UNION ALL
SELECT
  `station`,
  `gate`,
  `tile`,
  `n`,
  `count__level`,
  `max__level`,
  `sum__level`,
  `clock_ms`
FROM `base`
WHERE `tile` LIKE '300/%') AS `events`
GROUP BY `station`, `gate`, `tile`

INSERT INTO `tiles_1800`
SELECT /*+ STATE_TTL('events' = '90000 s') */
  `station`,
  `gate`,
  `tile`,
  SUM(`n`) AS `n`,
  SUM(`count__level`) AS `count__level`,
  MIN(`first__level`) AS `first__level`,
  MAX(`last__level`) AS `last__level`,
  COALESCE(SUM(`sum__level`), 0) AS `sum__level`,
  COALESCE(SUM(`sumsq__level`), 0) AS `sumsq__level`,
  MAX(`clock_ms`) AS `clock_ms`
FROM (SELECT
  `station`,
  `gate`,
  CONCAT('1800/', CAST(`event_time_ms` / 1800000 AS STRING)) AS `tile`,
  CAST(1 AS BIGINT) AS `n`,
  CASE WHEN `level` IS NULL THEN CAST(0 AS BIGINT) ELSE CAST(1 AS BIGINT) END AS `count__level`,
  CONCAT(LPAD(CAST(`event_time_ms` AS STRING), 15, '0'), U&'\0001', `event_id`, U&'\0001', CAST(`level` AS STRING)) AS `first__level`,
  CONCAT(LPAD(CAST(`event_time_ms` AS STRING), 15, '0'), U&'\0001', `event_id`, U&'\0001', CAST(`level` AS STRING)) AS `last__level`,
  CAST(`level` AS DOUBLE) AS `sum__level`,
  CAST(`level` AS DOUBLE) * CAST(`level` AS DOUBLE) AS `sumsq__level`,
  `event_time_ms` AS `clock_ms`
FROM `source`
WHERE `station` IS NOT NULL AND `gate` IS NOT NULL AND `event_time_ms` IS NOT NULL
UNION ALL
SELECT
  `station`,
  `gate`,
  `tile`,
  `n`,
  `count__level`,
  `first__level`,
  `last__level`,
  `sum__level`,
  `sumsq__level`,
  `clock_ms`
FROM `base`
WHERE `tile` LIKE '1800/%') AS `events`
GROUP BY `station`, `gate`, `tile`
