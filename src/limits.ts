// Every time and limit of the agent that is not a setting, in one place; docs/limits.md explains them.
// Bounds of a wire format or of a kernel file are beside the code that reads it.

// The lease (docs/architecture.md, one writer). Tests shorten the first four.

/** A lease that was not renewed for that long may be taken by another agent. */
export const LEASE_TERM_MS = 30_000;

/** What a dead agent sent to a target that lives on has ended by then. */
export const GRACE_MS = 10_000;

/** How often the target is asked for its events. */
export const EVENTS_MS = 2_000;

/** Steps in flight may end by themselves within this when the agent stops. */
export const STOP_MS = 5_000;

/** The holder renews its lease that often. */
export const renewalMs = (leaseTermMs: number): number => leaseTermMs / 3;

/** The holder stops sending changes that long after the start of its last renewal that succeeded. */
export const leaseUseMs = (leaseTermMs: number): number => (leaseTermMs * 2) / 3;

/** A transaction that does not answer for that long is given up. */
export const stallMs = (leaseTermMs: number): number => Math.round(leaseTermMs / 3);

/** Between two attempts to get the lease, or to reach the database that it is in. */
export const LEASE_RETRY_MS = 1_000;

// The loops.

/** Objects that one pass plans; the rest is planned in the next turn of the event loop. */
export const PASS_OBJECTS = 64;

/** Back-off of a step after its first failure; it doubles with each further one. */
export const BACKOFF_FIRST_MS = 200;
export const BACKOFF_LAST_MS = 60_000;

/** Bytes of what went wrong with a step, as the target or the kernel says it. */
export const MAX_ERROR_BYTES = 1_000;

/** Suspects of a crash let other steps go first, but not for longer than that. */
export const SUSPECTS_WAIT_MS = 30_000;

/** Between two full scans of a target on which nothing seems to happen. */
export const FULL_SCAN_MS = 300_000;

/** The hosts connected to each export are asked for at most that often. */
export const CONNECTED_HOSTS_MS = 60_000;

/** A low level of free space ends once that much more than its threshold is free. */
export const SPACE_MARGIN_PERCENT = 2;

/** The free clusters in a disk's row are written again once they are off by that much of the disk. */
export const SPACE_RECORD_PERCENT = 1;

/** Between two listings of the kernel's disks: sysfs cannot announce a new one. */
export const KERNEL_SCAN_MS = 5_000;

/** A listing that takes longer hangs in the kernel. */
export const KERNEL_LATE_MS = 30_000;

/** The evidence of a disk that seems unchanged is gathered again after that long. */
export const EVIDENCE_MS = 30_000;

/** Whether another node has released a disk that is here by now is asked again after that long. */
export const ELSEWHERE_MS = 30_000;

/** The kernel may take that long to unbind a function from its driver; it has no limit itself. */
export const UNBIND_MS = 10_000;

/** A wipe zeroes so much at the beginning and at the end of a disk. */
export const WIPE_END_BYTES = 16_777_216;

/** A wipe that has not begun by then is not carried out any more. */
export const WIPE_BEGIN_MS = 600_000;

/** Refused attaches of a controller, and refused formats of a disk, before it is given back. */
export const ATTACH_TRIES = 5;
export const FORMAT_TRIES = 3;

/** A smaller disk has no room for a store: a cluster for its own records, and some for volumes. */
export const MIN_DISK_BYTES = 16_777_216;

/** Before a claim that failed for good is tried again; it doubles with each further one. */
export const CLAIM_RETRY_FIRST_MS = 600_000;
export const CLAIM_RETRY_LAST_MS = 21_600_000;

/** After a fabric disk of the configuration could not be attached. */
export const FABRIC_RETRY_MS = 5_000;

/** The answer to a change of a subsystem is waited for that long; then its outcome is unknown. */
export const NVMF_WAIT_MS = 15_000;

/** After that long with an unknown outcome, what may be sent twice is sent again. */
export const REPEAT_MS = 10_000;

/** An outcome that stays unknown for longer than that is a fault of the node. */
export const OUTCOME_LATE_MS = 60_000;

/** While the target may be loading a store, nothing has to be answered for that long. */
export const TARGET_LOAD_SILENT_MS = 60_000;

/** Between the removal of a namespace and that of its subsystem, when a connected host is cut off. */
export const CUT_OFF_MS = 2_000;

// The I/O counters.

/** Interval of a reader of I/O counters: shortest, longest, and if it names none. */
export const IOSTAT_MIN_MS = 100;
export const IOSTAT_MAX_MS = 300_000;
export const IOSTAT_DEFAULT_MS = 1_000;

/** Counters that are younger are not read again for a scrape of the metrics. */
export const IOSTAT_FRESH_MS = 1_000;

/** The answer with the counters is waited for that long; it keeps the next call back until the other. */
export const IOSTAT_WAIT_MS = 3_000;
export const IOSTAT_OVERDUE_MS = 60_000;

/** After counters could not be read, as the target is away or refused; or after the interval, if shorter. */
export const IOSTAT_RETRY_MS = 1_000;

// The health of disks.

/** Between two reads of the health page of a controller; the reads are spread over that time. */
export const HEALTH_MS = 60_000;

/** A controller that has just been attached is read within that time. */
export const HEALTH_FIRST_MS = 5_000;

/** How often it is looked whose health page is due. */
export const HEALTH_TICK_MS = 1_000;

/** The answer with a health page; what comes later is not used. */
export const HEALTH_WAIT_MS = 10_000;

/** What was read is recorded that often though nothing has changed. */
export const HEALTH_RECORD_MS = 3_600_000;

/** A reason begins with that many reads in a row that show it, and ends with that many that do not. */
export const HEALTH_RAISE_LOOKS = 2;
export const HEALTH_CLEAR_LOOKS = 10;

/** New errors of a disk are counted over that time. */
export const HEALTH_WINDOW_MS = 3_600_000;

/** A temperature is no longer high once it is so many degrees below its threshold. */
export const HEALTH_TEMPERATURE_MARGIN = 5;

// The checks of `storage-node doctor`.

/** Each answer of the target is waited for that long. */
export const DOCTOR_WAIT_MS = 3_000;

/** Hugepages that a target needs to start and to attach drives: 440 of 2 MiB, measured. */
export const TARGET_HUGEPAGES_BYTES = 440 * 2 * 1024 * 1024;

/** Sockets of a target with a host on every export, which has an admin and an I/O queue at least. */
export const socketsOf = (exports: number): bigint => 2n * BigInt(exports) + 256n;

// Zeroing of free space.

/** Slices are at least that large, and at most ZEROING_SLICES in number: each is one delete. */
export const ZEROING_SLICE_BYTES = 1024 * 1024 * 1024;
export const ZEROING_SLICES = 256;

/** Stays free for thin volumes in use until all but that is held by slices. */
export const ZEROING_RESERVE_BYTES = 1024 * 1024 * 1024;

/** Slices of one cluster, zeroed first: they end the time in which no cluster is free. */
export const ZEROING_FIRST_SLICES = 8;

/** Smaller slices say nothing about the rate at which a disk is zeroed. */
export const ZEROING_MEASURED_BYTES = 64 * 1024 * 1024;

// The database.

export const DATABASE_CONNECTIONS = 4;
export const DATABASE_CONNECT_MS = 3_000;
export const DATABASE_STATEMENT_MS = 15_000;

/**
 * A lock that another session holds is waited for that long: the row of the node, which every transaction
 * locks, must be free for the renewal of the lease.
 */
export const DATABASE_LOCK_MS = 5_000;

/** A transaction that takes longer counts as one that cannot be committed until it is. */
export const DATABASE_LATE_MS = 6_000;

/** Longer than DATABASE_STATEMENT_MS, so that the server's own limit is the one that is met. */
export const DATABASE_QUERY_MS = 20_000;

/** A database that does not answer for that long counts as away until it does. */
export const DATABASE_SILENT_MS = 2_000;

/** Intents in one transaction; a larger one gains nothing. */
export const COMMIT_INTENTS = 256;

/** Intents that wait for a transaction; further calls are refused with OVERLOADED. */
export const QUEUED_INTENTS = 10_000;

/**
 * Between two transactions after one that failed, the first time and at most. The latter also
 * passes before the loop of a record that PostgreSQL refuses may record again. */
export const COMMIT_RETRY_FIRST_MS = 100;
export const COMMIT_RETRY_LAST_MS = 2_000;

/**
 * The row of a deleted volume is kept that long, and of these the newest so many of a node: one that
 * exceeds either is compacted, and answers NOT_FOUND from then on.
 */
export const TOMBSTONE_MS = 86_400_000;
export const TOMBSTONES = 1_000;

/** Rows of deleted volumes that one transaction compacts. */
export const COMMIT_TOMBSTONES = 1_000;

// Events.

/** Events that wait to be written; further ones are dropped and counted. */
export const EVENTS_QUEUED = 10_000;

/** Events are written that long after the first one that waits. */
export const EVENT_FLUSH_MS = 1_000;

/** Events that one statement writes, or deletes. */
export const EVENTS_PER_STATEMENT = 1_000;

/** Between two deletions of old events. */
export const EVENT_PRUNE_MS = 600_000;

/** Characters of each text of an event; the rest is cut off. */
export const EVENT_TEXT_CHARS = 2_000;

/** Between two looks at which states have lasted, and how long a state lasts that is an event. */
export const STATES_MS = 1_000;
export const STATE_LASTS_MS = 10_000;

// The local copy.

/** Below that size the file is only appended to; above, it is replaced at twice its live size. */
export const COPY_COMPACT_BYTES = 65_536;

/** After the file could not be written. */
export const COPY_RETRY_MS = 5_000;

// The SPDK connection.

/** A request stays below this: releases before 26.05 close the connection at 32 KiB. */
export const SPDK_REQUEST_BYTES = 30_000;

/** Names in one bdev_get_iostat: SPDK takes about 1,024. More: the counters of all are read. */
export const IOSTAT_NAMES = 900;

/** Unanswered requests for one lvstore; SPDK refuses from about 512 on. */
export const STORE_WINDOW = 256;

/** Reconnecting every RECONNECT_QUICK_MS for RECONNECT_QUICK_FOR_MS, then up to RECONNECT_SLOW_MS. */
export const RECONNECT_QUICK_MS = 50;
export const RECONNECT_QUICK_FOR_MS = 10_000;
export const RECONNECT_SLOW_MS = 5_000;

// The API.

/** Longest wait_timeout of a call. */
export const MAX_WAIT_MS = 600_000;

export const DEFAULT_PAGE_SIZE = 50;
export const MAX_PAGE_SIZE = 500;

/** A page ends once its objects fill that; one object has less than 1 MiB, and clients take 4 MiB. */
export const PAGE_BYTES = 1024 * 1024;

/** Hosts of one volume. */
export const MAX_HOSTS = 256;

/** Confirmations of one ConfirmHosts. */
export const MAX_CONFIRMATIONS = 1_000;

/** Operations, or MiB, per second of one volume; more is no limit to any disk. */
export const MAX_QOS_LIMIT = 10_000_000;

export const MAX_LABELS = 64;
export const MAX_LABEL_VALUE_BYTES = 256;

/** Calls that are served at once; further ones are refused with OVERLOADED. */
export const MAX_CALLS = 20_000;

/** Of these, for health checks and the calls of an operator only. */
export const RESERVED_CALLS = 500;

/** Calls and streams that are open at once on one connection; its client keeps further ones back. */
export const MAX_CONNECTION_CALLS = 10_000;

/** Streams that are open at once, Watch and StreamIostat; further ones are refused with OVERLOADED. */
export const MAX_STREAMS = 4_000;

/** The same, of grpc.health.v1 and of reflection. */
export const MAX_HEALTH_STREAMS = 2_000;
export const MAX_REFLECTION_STREAMS = 200;

/** Streams of all kinds that are open at once on one connection. */
export const MAX_CONNECTION_STREAMS = 100;

/** What one connection may have unread, in MiB; it gets no new calls before it reads. */
export const CONNECTION_UNREAD_MIB = 64;

/** Changes that Watch keeps for its readers, and their bytes; a reader that is further behind is ended. */
export const WATCH_CHANGES = 4_096;
export const WATCH_CHANGES_BYTES = 16 * 1024 * 1024;

/** Objects that Watch encodes in one turn of the event loop. */
export const WATCH_TURN_OBJECTS = 128;

/** Shortest and longest interval of bookmarks. */
export const BOOKMARK_MIN_MS = 100;
export const BOOKMARK_MAX_MS = 600_000;

/** Bytes of each free text of a request: a reason, an etag, a name. */
export const MAX_TEXT_BYTES = 1_024;

/** Bad fields, or objects that stand in the way, that a refusal lists; further ones are counted. */
export const MAX_LISTED = 20;

/** Bytes of each text of a refusal beside its message. */
export const MAX_TOLD_BYTES = 300;

/** A refusal in the trailers of an answer: many clients take no more than 8 KiB of all of them. */
export const REFUSAL_BYTES = 7_000;

/** Size of a request. */
export const MAX_MESSAGE_BYTES = 4 * 1024 * 1024;

/** Calls may end by themselves within this when the agent stops. */
export const DRAIN_MS = 5_000;

// Who may call.

/** Between two looks at the files of certificates and clients, and at what has expired. */
export const ACCESS_LOOK_MS = 1_000;

/** Health says so once less than that part of the life of this node's certificate is left. */
export const CERTIFICATE_LATE_PERCENT = 10;

/** A TLS handshake ends within this, and so many may be under way: beyond that the oldest is dropped. */
export const HANDSHAKE_MS = 10_000;
export const HANDSHAKES = 256;

/** Connections of one client to one port; all those without a valid certificate count as one client. */
export const CLIENT_CONNECTIONS = 256;

/** Calls, and streams among them, of one client that are served at once; further ones are OVERLOADED. */
export const CLIENT_CALLS = 5_000;
export const CLIENT_STREAMS = 1_000;

/** The refusal of one client for one reason is logged again after that long; so many are remembered. */
export const REFUSED_AGAIN_MS = 60_000;
export const REFUSALS_TOLD = 1_000;
