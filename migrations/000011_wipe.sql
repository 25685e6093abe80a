-- Wiping disks.

alter table disk
  -- What is to be destroyed, and how far that is: {"requestedTime", "evidence", "reason", "begun"};
  -- null: nothing is.
  add column wipe jsonb,
  -- When and why a wipe ended without the disk being wiped; null: none did.
  add column wipe_ended text;
