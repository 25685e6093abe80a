-- Who may write, what is under way, and what an operator has to decide.

alter table node
  -- The lease: one agent at a time writes the rows of a node, and each that takes over has the next
  -- epoch. lease_lock names the local lock that the holder has: whoever holds that lock now knows
  -- that the holder is dead.
  add column lease_epoch bigint not null default 0 check (lease_epoch >= 0),
  add column lease_holder text,
  add column lease_lock text,
  add column lease_expire_time timestamptz,
  -- Why the agent changes nothing until an operator decides; null: it works.
  add column hold text;

alter table disk
  add column pending_op jsonb,
  add column zero_requested_time timestamptz;

alter table lvol
  -- Made from what lay on the disk: its hosts are not known, and its export is left as it is until
  -- somebody says who may connect.
  add column unconfirmed boolean not null default false;
