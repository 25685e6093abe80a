-- Disks that are taken over from another node of the fleet, in a database that was restored.

alter table node
  -- When rebuild ended a hold as the database was older than what the node remembers: rows that were
  -- not changed since may be outdated, also those of other nodes. Null: it never did.
  add column older_until timestamptz;
