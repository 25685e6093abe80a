-- Zeroing of free space.

alter table disk
  -- Bytes per second, as last measured; null: never.
  add column zeroing_rate bigint check (zeroing_rate > 0);
