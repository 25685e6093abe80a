-- Taking disks.

alter table disk
  -- Why the admission ended, as what was seen of the disk has changed since; null: it did not.
  add column admission_ended text;
