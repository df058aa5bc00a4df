-- compatible: 1

-- Whoever changes what is counted waits until that is done.
LOCK TABLE repository, blob, repository_blob, manifest, trashed_manifest, tag IN SHARE ROW EXCLUSIVE MODE;

-- What each organization uses, kept by triggers, so that asking costs few rows, and so that changes of older Berths count,
-- too. An organization is the first part of names. Its rows are to be summed up: they are several, so that commits do not wait for each
-- other. repositories are those that are listed. bytes has each blob once for every repository that links to it,
-- deduplicated once for the organization; manifests, those in the trash, too, count in both, once in every repository.
CREATE TABLE organization_usage (
  organization TEXT COLLATE "C" NOT NULL,
  shard        INTEGER NOT NULL,
  repositories BIGINT NOT NULL,
  tags         BIGINT NOT NULL,
  bytes        BIGINT NOT NULL,
  deduplicated BIGINT NOT NULL,
  PRIMARY KEY (organization, shard)
) WITH (fillfactor = 50);

-- How many repositories of an organization link to a blob.
CREATE TABLE organization_blob (
  organization TEXT COLLATE "C" NOT NULL,
  blob_id      BIGINT NOT NULL,
  links        BIGINT NOT NULL,
  PRIMARY KEY (organization, blob_id)
);

-- What an organization may use at most; null is without limit. bytes limits deduplicated bytes if deduplicated is 1. From warn
-- percent of a limit on, clients are warned.
CREATE TABLE quota (
  organization TEXT COLLATE "C" PRIMARY KEY,
  bytes        BIGINT,
  deduplicated BIGINT NOT NULL,
  tags         BIGINT,
  repositories BIGINT,
  warn         BIGINT NOT NULL
);

INSERT INTO organization_blob (organization, blob_id, links)
  SELECT split_part(r.name, '/', 1), rb.blob_id, COUNT(*)
  FROM repository_blob rb JOIN repository r ON r.id = rb.repository_id GROUP BY 1, 2;
INSERT INTO organization_usage (organization, shard, repositories, tags, bytes, deduplicated)
  SELECT organization, 0, SUM(repositories), SUM(tags), SUM(bytes), SUM(deduplicated) FROM (
    SELECT split_part(name, '/', 1) AS organization, SUM(listed) AS repositories, 0 AS tags, 0 AS bytes, 0 AS deduplicated
      FROM repository GROUP BY 1
    UNION ALL SELECT split_part(r.name, '/', 1), 0, COUNT(*), 0, 0 FROM tag t JOIN repository r ON r.id = t.repository_id GROUP BY 1
    UNION ALL SELECT split_part(r.name, '/', 1), 0, 0, SUM(m.size), SUM(m.size)
      FROM (SELECT repository_id, size FROM manifest UNION ALL SELECT repository_id, size FROM trashed_manifest) AS m JOIN repository r ON r.id = m.repository_id GROUP BY 1
    UNION ALL SELECT o.organization, 0, 0, SUM(b.size * o.links), SUM(b.size) FROM organization_blob o JOIN blob b ON b.id = o.blob_id GROUP BY 1
  ) AS counted GROUP BY 1;

CREATE FUNCTION add_usage(whose TEXT, more_repositories BIGINT, more_tags BIGINT, more_bytes BIGINT, more_deduplicated BIGINT)
RETURNS VOID LANGUAGE plpgsql AS $$
BEGIN
  UPDATE organization_usage SET repositories = repositories + more_repositories, tags = tags + more_tags,
    bytes = bytes + more_bytes, deduplicated = deduplicated + more_deduplicated
    WHERE organization = whose AND shard = pg_backend_pid() % 64;
  IF NOT FOUND THEN
    INSERT INTO organization_usage AS u (organization, shard, repositories, tags, bytes, deduplicated)
      VALUES (whose, pg_backend_pid() % 64, more_repositories, more_tags, more_bytes, more_deduplicated)
      ON CONFLICT (organization, shard) DO UPDATE SET repositories = u.repositories + excluded.repositories, tags = u.tags + excluded.tags,
        bytes = u.bytes + excluded.bytes, deduplicated = u.deduplicated + excluded.deduplicated;
  END IF;
END $$;

CREATE FUNCTION count_repository() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP <> 'DELETE' AND NEW.listed <> 0 THEN
    PERFORM add_usage(split_part(NEW.name, '/', 1), NEW.listed, 0, 0, 0);
  END IF;
  IF TG_OP <> 'INSERT' AND OLD.listed <> 0 THEN
    PERFORM add_usage(split_part(OLD.name, '/', 1), -OLD.listed, 0, 0, 0);
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER repository_counted AFTER INSERT OR DELETE OR UPDATE OF listed ON repository FOR EACH ROW EXECUTE FUNCTION count_repository();

-- The size of a blob does not change meanwhile: the foreign key of a new link has locked its row, and of an old one this does.
CREATE FUNCTION count_link() RETURNS TRIGGER LANGUAGE plpgsql AS $$
DECLARE
  whose TEXT;
  size BIGINT;
  left_over BIGINT;
BEGIN
  IF TG_OP = 'INSERT' THEN
    SELECT split_part(r.name, '/', 1), b.size INTO whose, size FROM repository r, blob b WHERE r.id = NEW.repository_id AND b.id = NEW.blob_id;
    INSERT INTO organization_blob AS o (organization, blob_id, links) VALUES (whose, NEW.blob_id, 1)
      ON CONFLICT (organization, blob_id) DO UPDATE SET links = o.links + 1 RETURNING o.links INTO left_over;
    PERFORM add_usage(whose, 0, 0, size, CASE left_over WHEN 1 THEN size ELSE 0 END);
    RETURN NULL;
  END IF;
  SELECT split_part(r.name, '/', 1), b.size INTO whose, size FROM repository r, blob b WHERE r.id = OLD.repository_id AND b.id = OLD.blob_id
    FOR KEY SHARE OF b;
  UPDATE organization_blob SET links = links - 1 WHERE organization = whose AND blob_id = OLD.blob_id RETURNING links INTO left_over;
  IF left_over = 0 THEN
    DELETE FROM organization_blob WHERE organization = whose AND blob_id = OLD.blob_id;
  END IF;
  PERFORM add_usage(whose, 0, 0, -size, CASE left_over WHEN 0 THEN -size ELSE 0 END);
  RETURN NULL;
END $$;
CREATE TRIGGER repository_blob_counted AFTER INSERT OR DELETE ON repository_blob FOR EACH ROW EXECUTE FUNCTION count_link();

CREATE FUNCTION count_resized() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
  PERFORM add_usage(c.organization, 0, 0, (NEW.size - OLD.size) * c.links, NEW.size - OLD.size)
    FROM (SELECT split_part(r.name, '/', 1) AS organization, COUNT(*) AS links
      FROM repository_blob rb JOIN repository r ON r.id = rb.repository_id WHERE rb.blob_id = NEW.id GROUP BY 1 ORDER BY 1) AS c;
  RETURN NULL;
END $$;
CREATE TRIGGER blob_resize_counted AFTER UPDATE OF size ON blob FOR EACH ROW WHEN (NEW.size <> OLD.size) EXECUTE FUNCTION count_resized();

CREATE FUNCTION count_manifest() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP <> 'DELETE' THEN
    PERFORM add_usage(split_part(name, '/', 1), 0, 0, NEW.size, NEW.size) FROM repository WHERE id = NEW.repository_id;
  END IF;
  IF TG_OP <> 'INSERT' THEN
    PERFORM add_usage(split_part(name, '/', 1), 0, 0, -OLD.size, -OLD.size) FROM repository WHERE id = OLD.repository_id;
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER manifest_counted AFTER INSERT OR DELETE OR UPDATE OF size ON manifest FOR EACH ROW EXECUTE FUNCTION count_manifest();
CREATE TRIGGER trashed_manifest_counted AFTER INSERT OR DELETE ON trashed_manifest FOR EACH ROW EXECUTE FUNCTION count_manifest();

CREATE FUNCTION count_tag() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN
    PERFORM add_usage(split_part(name, '/', 1), 0, 1, 0, 0) FROM repository WHERE id = NEW.repository_id;
  ELSE
    PERFORM add_usage(split_part(name, '/', 1), 0, -1, 0, 0) FROM repository WHERE id = OLD.repository_id;
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER tag_counted AFTER INSERT OR DELETE ON tag FOR EACH ROW EXECUTE FUNCTION count_tag();
