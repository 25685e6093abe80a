-- Ids that are unique over the fleet, what outlives a deleted volume, and what is known of hosts and of
-- the target's process.

-- Stands for node_id where there are millions of rows.
alter table node add column number integer generated always as identity unique;

-- Every id that was ever given to a volume or a snapshot. Inserted in the transaction of the intent, so
-- that two nodes cannot take one id; never deleted, so that no id is used twice.
create table object_id (
  id uuid primary key,
  -- Number of the node.
  node integer not null,
  -- l: volume, s: snapshot.
  kind "char" not null check (kind in ('l', 's'))
);

insert into object_id (id, node, kind)
  select lvol.id, node.number, 'l' from lvol join node on node.node_id = lvol.node_id;

alter table lvol add constraint lvol_id_is_taken foreign key (id) references object_id;

-- What is left of a deleted volume once its row is gone: its lvol may come back with its store after a
-- delete that failed halfway, and is deleted again then. Millions may pile up: the columns are few, and
-- the index has 4 bytes of a key. Goes with the disk's row; object_id has the id in any case.
create table tombstone (
  id uuid not null,
  disk_id uuid not null references disk on delete cascade,
  -- Null: no lvol of it was ever observed; what comes back has its id as a name.
  lvol_uuid uuid
);

create index tombstone_lvol on tombstone (uuid_hash(coalesce(lvol_uuid, id)));

alter table lvol
  -- Shown to hosts; /dev/disk/by-id is made of both, so a volume keeps what it was made with.
  add column serial_number text not null default '',
  add column model_number text not null default 'storage-node lvol',
  -- Of hosts: those that may not connect before somebody confirms them, as this row comes from a
  -- database that is older than what the node remembers. '*' stands for allow_any_host.
  add column unconfirmed_hosts text[] not null default '{}',
  -- The row comes from such a database, and no lvol was seen when it was written: one may have been made
  -- and lost since, so no empty lvol is made for it.
  add column maybe_made boolean not null default false,
  -- Hosts that were connected in the named incarnation of the target, as last recorded; null: unknown.
  add column connected_hosts text[],
  add column connected_incarnation text,
  -- The export was seen to be gone; a restart of the target restores the export of a volume that is
  -- being deleted, unless forced, until then.
  add column unexported_time timestamptz,
  -- An lvol that was not made for this volume had its name: unless lvol_uuid says otherwise, nothing
  -- of that name is the volume's.
  add column name_taken boolean not null default false,
  add column delete_reason text,
  -- Who asked for the present intent.
  add column actor text,
  -- Failures of steps by step and part: {"export/allow-host nqn...": {"attempt", "message", "nextTryTime"}}.
  add column failures jsonb not null default '{}';

-- Volumes that exist keep their serial numbers, the first 20 hexadecimal digits of their ids.
update lvol set serial_number = left(replace(id::text, '-', ''), 20),
  unexported_time = delete_time;

alter table lvol
  alter column serial_number drop default,
  add constraint lvol_serial_is_printable check (serial_number ~ '^[!-~]{1,20}$'),
  add constraint lvol_unconfirmed_are_hosts
    check (unconfirmed_hosts <@ (hosts || array['*']));

alter table disk
  add column failures jsonb not null default '{}',
  add column actor text,
  -- An operator asserts that discarded blocks read as zeros.
  add column discard_zeroes boolean not null default false,
  -- How far the zeroing of free space has come: {"zeroedBytes", "totalBytes", "startTime"}.
  add column zeroing jsonb;

alter table node
  -- The process of the target that the node's rows were last written for; compared at each connect.
  add column target_process jsonb;
