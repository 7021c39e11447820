"""The port on Apache Kafka: `bus.KafkaBus` over `cluster.Cluster`; the only importer of aiokafka.

aiokafka produces, fetches and frames. Consumer groups are spoken here (`membership`), because its own group code knows
neither fencing of static members, nor an orderly leave, nor a hand-over that lets the other partitions go on.
"""
