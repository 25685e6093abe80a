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

-- Free space. Until this version hosts could return clusters of thin volumes by discarding them, with
-- what stood in them: the free clusters of a disk that had such a volume may hold old bytes.
update disk set free_space = 'UNKNOWN'
  where free_space = 'ZEROED' and (
    exists (select from lvol where lvol.disk_id = disk.id and lvol.thin)
    or exists (select from tombstone where tombstone.disk_id = disk.id)
  );
