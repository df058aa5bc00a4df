-- compatible: 3

-- A job can be asked for: asked is 1 until a run begins, 2 until that has ended. Nobody begins a run of a job that is paused.
-- state is how far the job is, in a form of its own, so that any process goes on with it.
ALTER TABLE job ADD COLUMN asked INTEGER NOT NULL DEFAULT 0;
ALTER TABLE job ADD COLUMN paused_at INTEGER;
ALTER TABLE job ADD COLUMN paused_by TEXT;
ALTER TABLE job ADD COLUMN state TEXT;

-- Blobs whose bytes are not what they should be, or could not be read. A row is about the object of this key: a
-- blob that has got another one since is whole.
CREATE TABLE damaged_blob (
  blob_id     INTEGER PRIMARY KEY REFERENCES blob (id) ON DELETE CASCADE,
  storage_key TEXT NOT NULL,
  damage      TEXT NOT NULL,
  detail      TEXT NOT NULL,
  found_at    INTEGER NOT NULL
);

-- When the bytes of blobs were last read and found to be right. Blobs are read in the order of their ids, so one row stands for all
-- after the row before it, up to last_id. Those after the last row were hashed when they were written.
CREATE TABLE verified_blobs (
  last_id     INTEGER PRIMARY KEY,
  verified_at INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX verified_blobs_time ON verified_blobs (verified_at);
