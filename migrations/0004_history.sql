-- A long history must cost nothing: what is asked for by disk, by account and by age is found by an index.
CREATE INDEX transfers_by_disk ON transfers (disk_id);
CREATE INDEX transfers_by_account ON transfers (account, domain_id, created_ms);
CREATE INDEX transfers_by_age ON transfers (modified_ms);
CREATE INDEX backups_by_age ON backups (modified_ms);
