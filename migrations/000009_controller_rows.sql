-- Controllers: the PCI functions that are taken from the kernel. Disks are namespaces on them.

create table controller (
  node_id text not null references node,
  -- Its PCI address.
  id text not null,
  -- Of the drive that was read there last, by the kernel or by the target; null: none was.
  serial text,
  model text,
  -- wanted
  -- A call asked for a look at a function that was on vfio-pci already.
  inspect_requested_time timestamptz,
  generation bigint not null default 1 check (generation >= 1),
  actor text,
  traceparent text,
  -- recorded
  observed_generation bigint not null default 0 check (observed_generation >= 0),
  state text not null check (state in
    ('AVAILABLE', 'CLAIMED', 'ATTACHED', 'UNIDENTIFIED', 'REJECTED', 'CONFLICT', 'FAILED', 'MISSING')),
  state_reason text not null default '',
  driver text,
  iommu_group text,
  -- The driver that the agent has taken it from, recorded before; null: it has not taken it.
  original_driver text,
  -- Addresses of the functions that were taken together, this one included.
  members text[] not null default '{}',
  controller_name text,
  -- A claim that failed for good: {"attempt", "reason", "run", "nextTryTime"}.
  setback jsonb,
  pending_op jsonb,
  failures jsonb not null default '{}',
  last_error text,
  attempt integer not null default 0 check (attempt >= 0),
  next_try_time timestamptz,
  last_seen_time timestamptz not null default now(),
  revision bigint not null,
  create_time timestamptz not null default now(),
  update_time timestamptz not null default now(),
  primary key (node_id, id),
  constraint controller_observed_not_ahead check (observed_generation <= generation)
);

-- Until this version rows of disks said what had been taken. Of two disks with one address the one that
-- was seen there last counts.
insert into controller (node_id, id, serial, model, state, driver, original_driver, members,
    controller_name, pending_op, last_seen_time, revision)
  select distinct on (node_id, address) node_id, address, serial, model, 'CLAIMED', driver,
    case when driver = 'vfio-pci' then original_driver end, array[address],
    controller_name,
    case when pending_op ->> 'op' in ('attach', 'detach') then pending_op end,
    last_seen_time, revision
  from disk where transport = 'PCIe'
  order by node_id, address, last_seen_time desc;

update disk set pending_op = null
  where transport = 'PCIe' and pending_op ->> 'op' in ('attach', 'detach');

alter table disk
  drop column original_driver,
  -- 32 and 16 hexadecimal digits; null: the drive shows none.
  add column nguid text,
  add column eui64 text;

alter table event
  drop constraint event_object_kind_check,
  add constraint event_object_kind_check
    check (object_kind in ('lvol', 'snapshot', 'disk', 'controller', 'node'));
