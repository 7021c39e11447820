-- Until when a step may run: the time up to there is set apart from the wall clock of its task.
ALTER TABLE steps ADD COLUMN deadline_us bigint NOT NULL DEFAULT 0;
