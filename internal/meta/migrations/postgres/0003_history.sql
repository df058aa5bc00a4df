-- compatible: 1

-- What was deleted and can be taken back for a while. id is what the manifest had, and gets again. A manifest is either
-- in its repository or in the trash. The triggers hold that, and that what lies in the trash keeps its blobs and its repository,
-- also where an older Berth makes the change.
CREATE TABLE trashed_manifest (
  id            BIGINT PRIMARY KEY,
  repository_id BIGINT NOT NULL REFERENCES repository (id) ON DELETE RESTRICT,
  digest        TEXT COLLATE "C" NOT NULL,
  media_type    TEXT NOT NULL,
  size          BIGINT NOT NULL,
  artifact_type TEXT NOT NULL,
  subject       TEXT COLLATE "C",
  annotations   TEXT,
  created_at    BIGINT NOT NULL,
  body          BYTEA NOT NULL,
  deleted_at    BIGINT NOT NULL,
  actor         TEXT COLLATE "C" NOT NULL,
  credential    TEXT COLLATE "C" NOT NULL,
  method        TEXT COLLATE "C" NOT NULL,
  UNIQUE (repository_id, digest)
);
CREATE INDEX trashed_manifest_time ON trashed_manifest (deleted_at, id);
CREATE INDEX trashed_manifest_repository ON trashed_manifest (repository_id, deleted_at, id);
CREATE INDEX trashed_manifest_subject ON trashed_manifest (repository_id, subject) WHERE subject IS NOT NULL;

-- The collector's lock, as manifest_blob.
CREATE TABLE trashed_manifest_blob (
  manifest_id   BIGINT NOT NULL REFERENCES trashed_manifest (id) ON DELETE CASCADE,
  blob_id       BIGINT NOT NULL,
  repository_id BIGINT NOT NULL,
  PRIMARY KEY (manifest_id, blob_id),
  FOREIGN KEY (repository_id, blob_id) REFERENCES repository_blob (repository_id, blob_id) ON DELETE RESTRICT
);
CREATE INDEX trashed_manifest_blob_blob ON trashed_manifest_blob (repository_id, blob_id);

-- The tags that a manifest lost when it was deleted.
CREATE TABLE trashed_tag (
  manifest_id BIGINT NOT NULL REFERENCES trashed_manifest (id) ON DELETE CASCADE,
  name        TEXT COLLATE "C" NOT NULL,
  PRIMARY KEY (manifest_id, name)
);

CREATE FUNCTION manifest_not_in_trash() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
  DELETE FROM trashed_manifest WHERE repository_id = NEW.repository_id AND digest = NEW.digest;
  RETURN NULL;
END $$;
CREATE TRIGGER manifest_not_in_trash AFTER INSERT ON manifest FOR EACH ROW EXECUTE FUNCTION manifest_not_in_trash();

CREATE FUNCTION trash_keeps_link() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (SELECT 1 FROM trashed_manifest_blob WHERE repository_id = OLD.repository_id AND blob_id = OLD.blob_id) THEN
    RETURN NULL;
  END IF;
  RETURN OLD;
END $$;
CREATE TRIGGER trash_keeps_link BEFORE DELETE ON repository_blob FOR EACH ROW EXECUTE FUNCTION trash_keeps_link();

CREATE FUNCTION trash_keeps_repository() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (SELECT 1 FROM trashed_manifest WHERE repository_id = OLD.id) THEN
    RETURN NULL;
  END IF;
  RETURN OLD;
END $$;
CREATE TRIGGER trash_keeps_repository BEFORE DELETE ON repository FOR EACH ROW EXECUTE FUNCTION trash_keeps_repository();

CREATE FUNCTION trash_needs_link() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
  IF EXISTS (SELECT 1 FROM trashed_manifest_blob WHERE repository_id = NEW.repository_id AND blob_id = NEW.blob_id) THEN
    NEW.unreferenced_since := NULL;
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER trash_needs_link BEFORE UPDATE OF unreferenced_since ON repository_blob FOR EACH ROW
  WHEN (NEW.unreferenced_since IS NOT NULL) EXECUTE FUNCTION trash_needs_link();

-- The name of what the actor signed in with. A repository's log is found by its name, which may have been given again since.
ALTER TABLE tag_log ADD COLUMN credential TEXT NOT NULL DEFAULT '';
ALTER TABLE tag_log ALTER COLUMN repository TYPE TEXT COLLATE "C";
DROP INDEX tag_log_tag;
CREATE INDEX tag_log_moves ON tag_log (repository, tag, at, id);
CREATE INDEX tag_log_time ON tag_log (repository, at, id);
