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
  'scan.startup.mode' = 'earliest-offset',
  'format' = 'json',
  'json.ignore-parse-errors' = 'true'
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
  CONCAT('300/', CAST(`event_time_ms` / 300000 AS STRING)) AS `tile`,
  COUNT(*) AS `n`,
  COUNT(`level`) AS `count__level`,
  MAX(CAST(`level` AS DOUBLE)) AS `max__level`,
  COALESCE(SUM(CAST(`level` AS DOUBLE)), 0) AS `sum__level`,
  MAX(`event_time_ms`) AS `clock_ms`
FROM `source` AS `events`
WHERE `station` IS NOT NULL AND `gate` IS NOT NULL AND `event_time_ms` IS NOT NULL
GROUP BY `station`, `gate`, CONCAT('300/', CAST(`event_time_ms` / 300000 AS STRING))

INSERT INTO `tiles_1800`
SELECT /*+ STATE_TTL('events' = '90000 s') */
  `station`,
  `gate`,
  CONCAT('1800/', CAST(`event_time_ms` / 1800000 AS STRING)) AS `tile`,
  COUNT(*) AS `n`,
  COUNT(`level`) AS `count__level`,
  MIN(CONCAT(LPAD(CAST(`event_time_ms` AS STRING), 15, '0'), U&'\0001', `event_id`, U&'\0001', CAST(`level` AS STRING))) AS `first__level`,
  MAX(CONCAT(LPAD(CAST(`event_time_ms` AS STRING), 15, '0'), U&'\0001', `event_id`, U&'\0001', CAST(`level` AS STRING))) AS `last__level`,
  COALESCE(SUM(CAST(`level` AS DOUBLE)), 0) AS `sum__level`,
  COALESCE(SUM(CAST(`level` AS DOUBLE) * CAST(`level` AS DOUBLE)), 0) AS `sumsq__level`,
  MAX(`event_time_ms`) AS `clock_ms`
FROM `source` AS `events`
WHERE `station` IS NOT NULL AND `gate` IS NOT NULL AND `event_time_ms` IS NOT NULL
GROUP BY `station`, `gate`, CONCAT('1800/', CAST(`event_time_ms` / 1800000 AS STRING))
