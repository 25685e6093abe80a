-- Looks at functions that nobody can identify yet, for one drive only.

alter table controller
  -- With inspect_requested_time: the serial of the only drive whose disks are admitted; null: of any.
  add column inspect_serial text;
