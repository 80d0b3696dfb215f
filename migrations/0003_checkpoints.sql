-- Points in time that a later backup can be incremental from. The truth is in the images: a bitmap
-- per disk, named after the checkpoint. These rows say which bitmaps are ours, and what they mean.
CREATE TABLE checkpoints (
    id          VARCHAR(36) NOT NULL PRIMARY KEY,
    vm_id       VARCHAR(36) NOT NULL,
    parent_id   VARCHAR(36),
    phase       VARCHAR(16) NOT NULL,
    revision    BIGINT      NOT NULL,
    created_ms  BIGINT      NOT NULL,
    modified_ms BIGINT      NOT NULL,
    reason      TEXT
);
CREATE INDEX checkpoints_by_vm ON checkpoints (vm_id);

-- live is 1 while the bitmap may be used; one that is 0 is to be deleted, and its row with it.
CREATE TABLE checkpoint_disks (
    checkpoint_id VARCHAR(36)  NOT NULL REFERENCES checkpoints (id),
    disk_id       VARCHAR(36)  NOT NULL,
    live          BIGINT       NOT NULL,
    pool_id       VARCHAR(36)  NOT NULL,
    pool_kind     VARCHAR(64)  NOT NULL,
    pool_path     VARCHAR(512) NOT NULL,
    volume_path   VARCHAR(255) NOT NULL,
    size          BIGINT       NOT NULL,
    PRIMARY KEY (checkpoint_id, disk_id)
);

ALTER TABLE backups ADD COLUMN from_checkpoint VARCHAR(36);
ALTER TABLE backups ADD COLUMN to_checkpoint VARCHAR(36);
-- 1: the guest's file systems are frozen while the point in time is taken.
ALTER TABLE backups ADD COLUMN frozen BIGINT NOT NULL DEFAULT 0;
-- When somebody last asked about it.
ALTER TABLE backups ADD COLUMN touched_ms BIGINT NOT NULL DEFAULT 0;

ALTER TABLE backup_disks ADD COLUMN incremental BIGINT NOT NULL DEFAULT 0;
ALTER TABLE backup_disks ADD COLUMN why_full TEXT;

-- What /extents?context=dirty is answered from: 'bitmap', 'all'; NULL is not at all.
ALTER TABLE transfers ADD COLUMN dirty VARCHAR(16);
