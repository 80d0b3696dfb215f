-- CloudStack's own size of a disk when it was made: while that is the same, the exact one is true.
ALTER TABLE disks ADD COLUMN row_size BIGINT;
