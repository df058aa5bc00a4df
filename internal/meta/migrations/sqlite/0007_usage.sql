-- compatible: 3

-- What each organization uses, kept by triggers, so that asking costs one row, and so that changes of older Berths count,
-- too. An organization is the first part of names; it has a row while it has a repository. repositories are those that are
-- listed. bytes has each blob once for every repository that links to it, deduplicated once for the organization; manifests,
-- those in the trash, too, count in both, once in every repository.
CREATE TABLE organization_usage (
  organization TEXT    PRIMARY KEY,
  repositories INTEGER NOT NULL,
  tags         INTEGER NOT NULL,
  bytes        INTEGER NOT NULL,
  deduplicated INTEGER NOT NULL
) WITHOUT ROWID;

-- How many repositories of an organization link to a blob.
CREATE TABLE organization_blob (
  organization TEXT    NOT NULL,
  blob_id      INTEGER NOT NULL,
  links        INTEGER NOT NULL,
  PRIMARY KEY (organization, blob_id)
) WITHOUT ROWID;

-- What an organization may use at most; null is without limit. bytes limits deduplicated bytes if deduplicated is 1. From warn
-- percent of a limit on, clients are warned.
CREATE TABLE quota (
  organization TEXT    PRIMARY KEY,
  bytes        INTEGER,
  deduplicated INTEGER NOT NULL,
  tags         INTEGER,
  repositories INTEGER,
  warn         INTEGER NOT NULL
) WITHOUT ROWID;

INSERT INTO organization_usage (organization, repositories, tags, bytes, deduplicated)
  SELECT substr(name, 1, instr(name || '/', '/') - 1), SUM(listed), 0, 0, 0 FROM repository GROUP BY 1;
INSERT INTO organization_blob (organization, blob_id, links)
  SELECT substr(r.name, 1, instr(r.name || '/', '/') - 1), rb.blob_id, COUNT(*)
  FROM repository_blob rb JOIN repository r ON r.id = rb.repository_id GROUP BY 1, 2;
UPDATE organization_usage SET tags = c.tags
  FROM (SELECT substr(r.name, 1, instr(r.name || '/', '/') - 1) AS organization, COUNT(*) AS tags
    FROM tag t JOIN repository r ON r.id = t.repository_id GROUP BY 1) AS c
  WHERE c.organization = organization_usage.organization;
UPDATE organization_usage SET bytes = c.bytes, deduplicated = c.deduplicated
  FROM (SELECT o.organization, SUM(b.size * o.links) AS bytes, SUM(b.size) AS deduplicated
    FROM organization_blob o JOIN blob b ON b.id = o.blob_id GROUP BY 1) AS c
  WHERE c.organization = organization_usage.organization;
UPDATE organization_usage SET bytes = bytes + c.size, deduplicated = deduplicated + c.size
  FROM (SELECT substr(r.name, 1, instr(r.name || '/', '/') - 1) AS organization, SUM(m.size) AS size
    FROM (SELECT repository_id, size FROM manifest UNION ALL SELECT repository_id, size FROM trashed_manifest) AS m JOIN repository r ON r.id = m.repository_id GROUP BY 1) AS c
  WHERE c.organization = organization_usage.organization;

CREATE TRIGGER repository_insert_counted AFTER INSERT ON repository BEGIN
  INSERT INTO organization_usage (organization, repositories, tags, bytes, deduplicated)
    VALUES (substr(NEW.name, 1, instr(NEW.name || '/', '/') - 1), NEW.listed, 0, 0, 0)
    ON CONFLICT (organization) DO UPDATE SET repositories = repositories + excluded.repositories;
END;
CREATE TRIGGER repository_listing_counted AFTER UPDATE OF listed ON repository WHEN NEW.listed <> OLD.listed BEGIN
  UPDATE organization_usage SET repositories = repositories + NEW.listed - OLD.listed
    WHERE organization = substr(NEW.name, 1, instr(NEW.name || '/', '/') - 1);
END;
CREATE TRIGGER repository_delete_counted AFTER DELETE ON repository BEGIN
  UPDATE organization_usage SET repositories = repositories - OLD.listed
    WHERE organization = substr(OLD.name, 1, instr(OLD.name || '/', '/') - 1);
  DELETE FROM organization_usage WHERE organization = substr(OLD.name, 1, instr(OLD.name || '/', '/') - 1)
    AND NOT EXISTS (SELECT 1 FROM repository WHERE name = organization_usage.organization)
    AND NOT EXISTS (SELECT 1 FROM repository WHERE name > organization_usage.organization || '/' AND name < organization_usage.organization || '0');
END;

CREATE TRIGGER link_insert_counted AFTER INSERT ON repository_blob BEGIN
  INSERT INTO organization_blob (organization, blob_id, links)
    VALUES ((SELECT substr(name, 1, instr(name || '/', '/') - 1) FROM repository WHERE id = NEW.repository_id), NEW.blob_id, 1)
    ON CONFLICT (organization, blob_id) DO UPDATE SET links = links + 1;
  UPDATE organization_usage SET bytes = bytes + (SELECT size FROM blob WHERE id = NEW.blob_id),
    deduplicated = deduplicated + (SELECT CASE o.links WHEN 1 THEN b.size ELSE 0 END FROM blob b CROSS JOIN organization_blob o
      WHERE b.id = NEW.blob_id AND o.organization = organization_usage.organization AND o.blob_id = NEW.blob_id)
    WHERE organization = (SELECT substr(name, 1, instr(name || '/', '/') - 1) FROM repository WHERE id = NEW.repository_id);
END;
CREATE TRIGGER link_delete_counted AFTER DELETE ON repository_blob BEGIN
  UPDATE organization_blob SET links = links - 1 WHERE blob_id = OLD.blob_id
    AND organization = (SELECT substr(name, 1, instr(name || '/', '/') - 1) FROM repository WHERE id = OLD.repository_id);
  UPDATE organization_usage SET bytes = bytes - (SELECT size FROM blob WHERE id = OLD.blob_id),
    deduplicated = deduplicated - (SELECT CASE o.links WHEN 0 THEN b.size ELSE 0 END FROM blob b CROSS JOIN organization_blob o
      WHERE b.id = OLD.blob_id AND o.organization = organization_usage.organization AND o.blob_id = OLD.blob_id)
    WHERE organization = (SELECT substr(name, 1, instr(name || '/', '/') - 1) FROM repository WHERE id = OLD.repository_id);
  DELETE FROM organization_blob WHERE blob_id = OLD.blob_id AND links = 0
    AND organization = (SELECT substr(name, 1, instr(name || '/', '/') - 1) FROM repository WHERE id = OLD.repository_id);
END;
CREATE TRIGGER blob_resize_counted AFTER UPDATE OF size ON blob WHEN NEW.size <> OLD.size BEGIN
  UPDATE organization_usage SET bytes = bytes + (NEW.size - OLD.size) * c.links, deduplicated = deduplicated + NEW.size - OLD.size
    FROM (SELECT substr(r.name, 1, instr(r.name || '/', '/') - 1) AS organization, COUNT(*) AS links
      FROM repository_blob rb JOIN repository r ON r.id = rb.repository_id WHERE rb.blob_id = NEW.id GROUP BY 1) AS c
    WHERE c.organization = organization_usage.organization;
END;

CREATE TRIGGER manifest_insert_counted AFTER INSERT ON manifest BEGIN
  UPDATE organization_usage SET bytes = bytes + NEW.size, deduplicated = deduplicated + NEW.size
    WHERE organization = (SELECT substr(name, 1, instr(name || '/', '/') - 1) FROM repository WHERE id = NEW.repository_id);
END;
CREATE TRIGGER manifest_delete_counted AFTER DELETE ON manifest BEGIN
  UPDATE organization_usage SET bytes = bytes - OLD.size, deduplicated = deduplicated - OLD.size
    WHERE organization = (SELECT substr(name, 1, instr(name || '/', '/') - 1) FROM repository WHERE id = OLD.repository_id);
END;

CREATE TRIGGER trash_insert_counted AFTER INSERT ON trashed_manifest BEGIN
  UPDATE organization_usage SET bytes = bytes + NEW.size, deduplicated = deduplicated + NEW.size
    WHERE organization = (SELECT substr(name, 1, instr(name || '/', '/') - 1) FROM repository WHERE id = NEW.repository_id);
END;
CREATE TRIGGER trash_delete_counted AFTER DELETE ON trashed_manifest BEGIN
  UPDATE organization_usage SET bytes = bytes - OLD.size, deduplicated = deduplicated - OLD.size
    WHERE organization = (SELECT substr(name, 1, instr(name || '/', '/') - 1) FROM repository WHERE id = OLD.repository_id);
END;

CREATE TRIGGER manifest_resize_counted AFTER UPDATE OF size ON manifest WHEN NEW.size <> OLD.size BEGIN
  UPDATE organization_usage SET bytes = bytes + NEW.size - OLD.size, deduplicated = deduplicated + NEW.size - OLD.size
    WHERE organization = (SELECT substr(name, 1, instr(name || '/', '/') - 1) FROM repository WHERE id = NEW.repository_id);
END;

CREATE TRIGGER tag_insert_counted AFTER INSERT ON tag BEGIN
  UPDATE organization_usage SET tags = tags + 1
    WHERE organization = (SELECT substr(name, 1, instr(name || '/', '/') - 1) FROM repository WHERE id = NEW.repository_id);
END;
CREATE TRIGGER tag_delete_counted AFTER DELETE ON tag BEGIN
  UPDATE organization_usage SET tags = tags - 1
    WHERE organization = (SELECT substr(name, 1, instr(name || '/', '/') - 1) FROM repository WHERE id = OLD.repository_id);
END;
