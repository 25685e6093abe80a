-- A disk is released and adopted: the states on the way, and what is wanted meanwhile.

alter table disk
  drop constraint disk_state_check,
  add constraint disk_state_check check (state in
    ('DISCOVERED', 'CLAIMING', 'UP', 'IN_USE', 'FOREIGN', 'CONFLICT', 'FAILED', 'MISSING', 'RELEASING',
     'RELEASED')),
  drop constraint disk_wanted_check,
  -- inspect: it is attached so that its store can be read, and nothing is made on it.
  add constraint disk_wanted_check check (wanted in ('take', 'inspect', 'release')),
  -- The lvstore of somebody else that a call has made one of this node; null: none.
  add column adopted_store uuid;
