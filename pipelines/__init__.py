"""How events move: Flink jobs, the intake, the materializer, the archiver, and training."""
