-- What happens to a volume between its creation and its deletion.

-- Snapshots, and the clone families that they make with volumes. SPDK must not run two changes of one
-- family at a time: family_root names the family in every row, and does not change when members go.
create table snapshot (
  id uuid primary key references object_id,
  node_id text not null references node,
  disk_id uuid not null references disk,
  family_root uuid not null,
  -- Null: rebuilt from an lvol on the disk, on which it is not written.
  source_lvol_id uuid,
  -- wanted
  -- What the volume may come to need again, as its clusters now belong to the snapshot.
  promised_bytes bigint not null check (promised_bytes > 0),
  labels jsonb not null default '{}',
  generation bigint not null default 1 check (generation >= 1),
  delete_requested_time timestamptz,
  -- The deletion waits until at most one clone is left.
  delete_deferred boolean not null default false,
  actor text,
  traceparent text,
  -- recorded
  observed_generation bigint not null default 0 check (observed_generation >= 0),
  lvol_uuid uuid,
  lvs_uuid uuid,
  observed_size_bytes bigint check (observed_size_bytes >= 0),
  parent_id uuid,
  pending_op jsonb,
  failures jsonb not null default '{}',
  last_error text,
  failed boolean not null default false,
  attempt integer not null default 0 check (attempt >= 0),
  next_try_time timestamptz,
  revision bigint not null,
  create_time timestamptz not null default now(),
  update_time timestamptz not null default now(),
  delete_time timestamptz,
  constraint snapshot_observed_not_ahead check (observed_generation <= generation),
  constraint snapshot_tombstone_was_asked_for
    check (delete_time is null or delete_requested_time is not null)
);

create index snapshot_node on snapshot (node_id, id);

create trigger lvol_uuid_is_kept before update of lvol_uuid on snapshot
  for each row execute function lvol_uuid_is_kept();

alter table lvol
  add column family_root uuid,
  -- The snapshot that the lvol was last observed to be a clone of.
  add column parent_id uuid,
  -- A clone that does not have the data of its snapshot yet: no host may see it.
  add column cloning boolean not null default false;

update lvol set family_root = id;

alter table lvol
  alter column family_root set not null,
  add constraint lvol_cloning_is_not_exported check (not cloning or not exported);

alter table disk
  -- Of snapshots that are not tombstones; they count against the lvols of a store, not as exports.
  add column snapshot_count integer not null default 0 check (snapshot_count >= 0);

-- Space: what is left of each disk.

alter table disk
  -- How much is left, as last recorded: a level ends later than it begins.
  add column space_level text not null default 'OK'
    check (space_level in ('OK', 'LOW', 'CRITICAL'));

-- Volumes that were made from orphans.

alter table lvol
  -- Nobody knows how its lvol was made, so the delete of it may leave its bytes in free clusters.
  add column adopted boolean not null default false;

alter table snapshot
  -- Of such a volume: SPDK clears a snapshot as it clears the volume that it was taken of.
  add column adopted boolean not null default false;

-- Events: what happened to which object of a node, and why. Written in batches after what they tell, and
-- deleted when they are older than the node keeps them. No reference to node: each row would lock it.
create table event (
  -- Rises with time within one node, as it has one writer.
  id bigint generated always as identity,
  node_id text not null,
  object_kind text not null check (object_kind in ('lvol', 'snapshot', 'disk', 'node')),
  object_id text not null,
  reason text not null,
  before text not null,
  after text not null,
  message text not null,
  -- Who asked; empty: nobody.
  actor text not null,
  trace_id text not null,
  time timestamptz not null,
  primary key (node_id, id)
);

create index event_object on event (node_id, object_id, id);

-- Free space. Until this version hosts could return clusters of thin volumes by discarding them, with
-- what stood in them: the free clusters of a disk that had such a volume may hold old bytes.
update disk set free_space = 'UNKNOWN'
  where free_space = 'ZEROED' and (
    exists (select from lvol where lvol.disk_id = disk.id and lvol.thin)
    or exists (select from tombstone where tombstone.disk_id = disk.id)
  );
