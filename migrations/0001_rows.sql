-- Ids are CloudStack's or ours (uuids), times are milliseconds since 1970, sizes are bytes.
-- Only types and syntax that SQLite, MariaDB and PostgreSQL share.

CREATE TABLE meta (
    name  VARCHAR(64)  NOT NULL PRIMARY KEY,
    value VARCHAR(255) NOT NULL
);

-- open_vm is vm_id while a host may hold something of the backup, else NULL:
-- its uniqueness is what allows one backup per instance.
CREATE TABLE backups (
    id           VARCHAR(36)  NOT NULL PRIMARY KEY,
    vm_id        VARCHAR(36)  NOT NULL,
    open_vm      VARCHAR(36)  UNIQUE,
    user_id      VARCHAR(36)  NOT NULL,
    account      VARCHAR(255) NOT NULL,
    domain_id    VARCHAR(36)  NOT NULL,
    phase        VARCHAR(32)  NOT NULL,
    revision     BIGINT       NOT NULL,
    host_id      VARCHAR(36),
    host_address VARCHAR(255),
    source       VARCHAR(16)  NOT NULL,
    name         VARCHAR(255),
    description  TEXT,
    created_ms   BIGINT       NOT NULL,
    modified_ms  BIGINT       NOT NULL,
    error        TEXT
);
CREATE INDEX backups_by_vm ON backups (vm_id);

CREATE TABLE backup_disks (
    backup_id   VARCHAR(36)  NOT NULL REFERENCES backups (id),
    disk_id     VARCHAR(36)  NOT NULL,
    position    BIGINT       NOT NULL,
    pool_id     VARCHAR(36)  NOT NULL,
    pool_kind   VARCHAR(64)  NOT NULL,
    pool_path   VARCHAR(512) NOT NULL,
    volume_path VARCHAR(255) NOT NULL,
    size        BIGINT,
    url         VARCHAR(1024),
    PRIMARY KEY (backup_id, disk_id)
);

-- open_disk is disk_id while a host may hold a ticket or an export of the transfer, else NULL.
CREATE TABLE transfers (
    id                 VARCHAR(36)  NOT NULL PRIMARY KEY,
    disk_id            VARCHAR(36)  NOT NULL,
    open_disk          VARCHAR(36)  UNIQUE,
    backup_id          VARCHAR(36),
    vm_id              VARCHAR(36),
    user_id            VARCHAR(36)  NOT NULL,
    account            VARCHAR(255) NOT NULL,
    domain_id          VARCHAR(36)  NOT NULL,
    direction          VARCHAR(16)  NOT NULL,
    format             VARCHAR(16)  NOT NULL,
    phase              VARCHAR(32)  NOT NULL,
    revision           BIGINT       NOT NULL,
    host_id            VARCHAR(36)  NOT NULL,
    host_address       VARCHAR(255) NOT NULL,
    pool_id            VARCHAR(36)  NOT NULL,
    pool_kind          VARCHAR(64)  NOT NULL,
    pool_path          VARCHAR(512) NOT NULL,
    volume_path        VARCHAR(255) NOT NULL,
    export_url         VARCHAR(1024),
    nonce              VARCHAR(64)  NOT NULL,
    size               BIGINT       NOT NULL,
    inactivity_timeout BIGINT       NOT NULL,
    timeout_policy     VARCHAR(16)  NOT NULL,
    created_ms         BIGINT       NOT NULL,
    modified_ms        BIGINT       NOT NULL,
    last_active_ms     BIGINT       NOT NULL,
    transferred        BIGINT       NOT NULL,
    error              TEXT
);
CREATE INDEX transfers_by_backup ON transfers (backup_id);

-- The disks that the gateway made: what CloudStack cannot tell of them.
CREATE TABLE disks (
    id          VARCHAR(36)  NOT NULL PRIMARY KEY,
    account     VARCHAR(255) NOT NULL,
    domain_id   VARCHAR(36)  NOT NULL,
    exact_size  BIGINT       NOT NULL,
    pool_id     VARCHAR(36)  NOT NULL,
    volume_path VARCHAR(255) NOT NULL,
    client_id   VARCHAR(36)  UNIQUE,
    created_ms  BIGINT       NOT NULL
);

-- Which host opens the image of a disk that no instance runs on: never two at once.
CREATE TABLE leases (
    disk_id      VARCHAR(36)  NOT NULL PRIMARY KEY,
    host_id      VARCHAR(36)  NOT NULL,
    host_address VARCHAR(255) NOT NULL,
    taken_ms     BIGINT       NOT NULL
);

CREATE TABLE placement (
    vm_id      VARCHAR(36) NOT NULL PRIMARY KEY,
    cluster_id VARCHAR(36),
    host_id    VARCHAR(36),
    seen_ms    BIGINT      NOT NULL
);

CREATE TABLE deleted (
    id         VARCHAR(36)  NOT NULL PRIMARY KEY,
    account    VARCHAR(255) NOT NULL,
    domain_id  VARCHAR(36)  NOT NULL,
    deleted_ms BIGINT       NOT NULL
);

-- What undoes a half-made disk or instance, newest first; rows go when the work is complete.
CREATE TABLE steps (
    work       VARCHAR(36)   NOT NULL,
    position   BIGINT        NOT NULL,
    kind       VARCHAR(32)   NOT NULL,
    subject    VARCHAR(2048) NOT NULL,
    created_ms BIGINT        NOT NULL,
    PRIMARY KEY (work, position)
);
