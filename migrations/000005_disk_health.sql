-- The health of disks, as last read from their controllers.

alter table disk
  -- Changes only after reads in a row that agree, so that a drive that wavers costs no commits.
  add column health text not null default 'UNKNOWN'
    check (health in ('UNKNOWN', 'OK', 'DEGRADED', 'FAILED')),
  -- What is wrong, as a list of words.
  add column health_reasons jsonb not null default '[]'
    check (jsonb_typeof(health_reasons) = 'array'),
  -- When the disk was looked at, at the time of the last write of these columns.
  add column health_time timestamptz,
  -- The last health page by then; null: it gave none yet.
  add column health_sample jsonb;
