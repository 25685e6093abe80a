-- Copies on write: SPDK writes the copy of a cluster before the metadata that says whose it is, so a target
-- that dies in between leaves it in a cluster that is free.

alter table disk
  -- The incarnation of the target in which volumes of the disk had snapshots; null: none had.
  add column copying_run text;

-- Until this version nobody has looked: the free space of such a disk is zeroed once.
update disk set copying_run = 'of an earlier version' where snapshot_count > 0;
