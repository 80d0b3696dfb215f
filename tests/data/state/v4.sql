-- Rows as version 4 wrote them.
INSERT INTO meta (name, value) VALUES ('instance_id', '0a1b2c3d-0000-4000-8000-000000000001');
INSERT INTO backups (id, vm_id, open_vm, user_id, account, domain_id, phase, revision, host_id, host_address, source, name, description, from_checkpoint, to_checkpoint, frozen, created_ms, modified_ms, touched_ms, error) VALUES ('b1', 'vm1', 'vm1', 'u', 'acme', 'd', 'ready', 3, 'h', '10.0.0.1', 'running', NULL, 'Täglich; um 3', 'c1', 'c2', 1, 1700000000000, 1700000000500, 12, NULL);
INSERT INTO backups (id, vm_id, open_vm, user_id, account, domain_id, phase, revision, host_id, host_address, source, name, description, created_ms, modified_ms, error) VALUES ('b2', 'vm1', NULL, 'u', 'acme', 'd', 'failed', 5, NULL, NULL, 'stopped', 'n', NULL, 1600000000000, 1600000000500, 'no host');
INSERT INTO backup_disks (backup_id, disk_id, position, pool_id, pool_kind, pool_path, volume_path, size, url, incremental, why_full) VALUES ('b1', 'd1', 0, 'p', 'NetworkFilesystem', '/export', 'file', 1099511627776, 'nbd:unix:/run/x', 1, NULL);
INSERT INTO transfers (id, disk_id, open_disk, backup_id, vm_id, user_id, account, domain_id, direction, format, phase, revision, host_id, host_address, pool_id, pool_kind, pool_path, volume_path, export_url, nonce, size, inactivity_timeout, timeout_policy, created_ms, modified_ms, last_active_ms, transferred, error, dirty) VALUES ('t1', 'd1', 'd1', 'b1', 'vm1', 'u', 'acme', 'd', 'download', 'raw', 'transferring', 1, 'h', '10.0.0.1', 'p', 'NetworkFilesystem', '/export', 'file', NULL, 'nonce', 1099511627776, 600, 'legacy', 1, 2, 3, 4096, NULL, 'bitmap');
INSERT INTO disks (id, account, domain_id, exact_size, row_size, pool_id, volume_path, client_id, created_ms) VALUES ('d1', 'acme', 'd', 3758096384, 4294967296, 'p', 'file', 'c1', 7);
INSERT INTO leases (disk_id, host_id, host_address, taken_ms) VALUES ('d1', 'h', '10.0.0.1', 8);
INSERT INTO placement (vm_id, cluster_id, host_id, seen_ms) VALUES ('vm1', 'c', NULL, 9);
INSERT INTO deleted (id, account, domain_id, deleted_ms) VALUES ('v9', 'acme', 'd', 10);
INSERT INTO steps (work, position, kind, subject, created_ms) VALUES ('w', 1, 'volume', 'v', 11);
INSERT INTO checkpoints (id, vm_id, parent_id, phase, revision, created_ms, modified_ms, reason) VALUES ('c1', 'vm1', NULL, 'created', 1, 13, 14, NULL);
INSERT INTO checkpoints (id, vm_id, parent_id, phase, revision, created_ms, modified_ms, reason) VALUES ('c2', 'vm1', 'c1', 'pending', 0, 15, 15, NULL);
INSERT INTO checkpoint_disks (checkpoint_id, disk_id, live, pool_id, pool_kind, pool_path, volume_path, size) VALUES ('c1', 'd1', 1, 'p', 'NetworkFilesystem', '/export', 'file', 1099511627776);
