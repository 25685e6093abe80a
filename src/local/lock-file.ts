// The file of the local lock: a regular file of this user alone, with mode 0600, so that nobody else can
// open it and hold its lock. The folder of the target's socket may be one in which others make files, such as
// /var/tmp: what is not ours is neither used nor removed there, as another agent might just have made it.
import {
  closeSync,
  constants,
  fchmodSync,
  fstatSync,
  lstatSync,
  openSync,
  type Stats,
} from "node:fs";

const MODE = 0o600;

/** Which file it is: device and inode. */
export type LockFile = Pick<Stats, "dev" | "ino">;

/** Makes the file, or checks the one that is there and takes it from others. Throws an Error that says why not. */
export function prepareLockFile(path: string): LockFile {
  const found = lstatSync(path, { throwIfNoEntry: false });
  if (found === undefined) return makeLockFile(path);
  refuseOthers(found);
  // A close gives up the locks that this process has on a file: it is not opened where it need not be.
  if ((found.mode & 0o777) !== MODE) restrict(path, found);
  return found;
}

export function sameFile(path: string, { dev, ino }: LockFile): boolean {
  const found = lstatSync(path, { throwIfNoEntry: false });
  return found?.dev === dev && found.ino === ino;
}

function makeLockFile(path: string): LockFile {
  const { O_RDWR, O_CREAT, O_EXCL } = constants;
  const file = openSync(path, O_RDWR | O_CREAT | O_EXCL | constants.O_NOFOLLOW, MODE);
  try {
    return fstatSync(file);
  } finally {
    closeSync(file);
  }
}

/** Another agent may hold it, so it is not replaced. */
function restrict(path: string, expected: LockFile): void {
  const { O_RDWR, O_NOFOLLOW } = constants;
  const file = openSync(path, O_RDWR | O_NOFOLLOW);
  try {
    const { dev, ino } = fstatSync(file);
    if (dev !== expected.dev || ino !== expected.ino) throw new Error("it is being replaced");
    fchmodSync(file, MODE);
  } finally {
    closeSync(file);
  }
}

function refuseOthers(found: Stats): void {
  const what = found.isSymbolicLink() ? "is a symbolic link" : "is no file";
  const cure = "remove it, and put the target's socket into a folder that only its user can write";
  if (!found.isFile()) throw new Error(`it ${what}: ${cure}`);
  const own = process.geteuid?.();
  if (found.uid !== own) throw new Error(`it belongs to user ${found.uid}, not to ${own}: ${cure}`);
  if (found.nlink !== 1) throw new Error(`it has ${found.nlink} names: ${cure}`);
}
