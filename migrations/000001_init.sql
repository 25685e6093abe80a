-- Nodes, disks and volumes: what is wanted of each and what was last recorded. One database serves
-- the fleet; an agent works on the rows of its own node only.

create table node (
  node_id text primary key check (node_id ~ '^[A-Za-z0-9.-]{1,253}$'),
  fleet text not null,
  nqn_prefix text not null,
  cordoned boolean not null default false,
  -- Raised in every writing transaction: a sequence is not commit-ordered, a cursor would skip rows.
  revision bigint not null default 0 check (revision >= 0),
  create_time timestamptz not null default now()
);

create table disk (
  id uuid primary key,
  node_id text not null references node,
  serial text not null check (serial <> ''),
  model text not null,
  nsid integer not null check (nsid >= 1),
  -- wanted
  admitted boolean not null default false,
  admitted_serial text,
  admitted_evidence text,
  cordoned boolean not null default false,
  wanted text not null default 'take' check (wanted in ('take', 'release')),
  generation bigint not null default 1 check (generation >= 1),
  traceparent text,
  -- recorded
  observed_generation bigint not null default 0 check (observed_generation >= 0),
  state text not null default 'DISCOVERED' check (state in
    ('DISCOVERED', 'CLAIMING', 'UP', 'IN_USE', 'FOREIGN', 'CONFLICT', 'FAILED', 'MISSING', 'RELEASED')),
  state_reason text not null default '',
  transport text not null check (transport in ('PCIe', 'TCP', 'RDMA')),
  address text not null,
  kernel_name text,
  driver text,
  original_driver text,
  controller_name text,
  lvs_name text,
  lvs_uuid uuid,
  free_space text not null default 'UNKNOWN' check (free_space in ('ZEROED', 'UNKNOWN')),
  cluster_bytes bigint check (cluster_bytes > 0),
  total_clusters bigint check (total_clusters >= 0),
  free_clusters bigint check (free_clusters >= 0),
  size_bytes bigint not null check (size_bytes >= 0),
  block_size integer not null check (block_size >= 0),
  evidence jsonb not null default '[]',
  evidence_fingerprint text not null default '',
  last_error text,
  attempt integer not null default 0 check (attempt >= 0),
  next_try_time timestamptz,
  last_seen_time timestamptz not null default now(),
  -- Sums over the disk's volumes that are not tombstones, kept by the transaction that changes them.
  promised_bytes bigint not null default 0 check (promised_bytes >= 0),
  lvol_count integer not null default 0 check (lvol_count >= 0),
  revision bigint not null,
  create_time timestamptz not null default now(),
  update_time timestamptz not null default now(),
  constraint disk_admission_names_serial check (not admitted or admitted_serial = serial),
  constraint disk_observed_not_ahead check (observed_generation <= generation),
  constraint disk_up_has_store check (state <> 'UP' or (lvs_uuid is not null and cluster_bytes is not null))
);

create index disk_node on disk (node_id, id);

create table lvol (
  id uuid primary key,
  node_id text not null references node,
  disk_id uuid not null references disk,
  -- The creation request as it was resolved: a repeated call is compared with this, not with today.
  request jsonb not null,
  -- wanted
  size_bytes bigint not null check (size_bytes > 0),
  promised_bytes bigint not null,
  thin boolean not null,
  hosts text[] not null default '{}',
  allow_any_host boolean not null default false,
  qos jsonb,
  labels jsonb not null default '{}',
  nqn text not null,
  generation bigint not null default 1 check (generation >= 1),
  delete_requested_time timestamptz,
  delete_forced boolean not null default false,
  traceparent text,
  -- recorded
  observed_generation bigint not null default 0 check (observed_generation >= 0),
  lvol_uuid uuid,
  lvs_uuid uuid,
  observed_size_bytes bigint check (observed_size_bytes >= 0),
  exported boolean not null default false,
  pending_op jsonb,
  last_error text,
  failed boolean not null default false,
  attempt integer not null default 0 check (attempt >= 0),
  next_try_time timestamptz,
  revision bigint not null,
  create_time timestamptz not null default now(),
  update_time timestamptz not null default now(),
  -- Set: a tombstone. The row stays, as the lvol may come back after a delete that failed halfway.
  delete_time timestamptz,
  constraint lvol_promise_covers_size check (promised_bytes >= size_bytes),
  constraint lvol_observed_not_ahead check (observed_generation <= generation),
  constraint lvol_exported_was_seen check (not exported or lvol_uuid is not null),
  constraint lvol_tombstone_was_asked_for check (delete_time is null or delete_requested_time is not null),
  constraint lvol_tombstone_is_not_exported check (delete_time is null or not exported),
  constraint lvol_nqn_is_used_once unique (nqn)
);

create index lvol_node on lvol (node_id, id);
create index lvol_not_converged on lvol (node_id)
  where delete_time is null and (observed_generation < generation or delete_requested_time is not null);

-- A volume that was seen once must never be taken for one that was never made: it would be replaced
-- by an empty one.
create function lvol_uuid_is_kept() returns trigger language plpgsql as $$
begin
  if old.lvol_uuid is not null and new.lvol_uuid is distinct from old.lvol_uuid then
    raise exception 'lvol_uuid of % may not change once it was seen', old.id
      using errcode = 'check_violation';
  end if;
  return new;
end $$;

create trigger lvol_uuid_is_kept before update of lvol_uuid on lvol
  for each row execute function lvol_uuid_is_kept();
