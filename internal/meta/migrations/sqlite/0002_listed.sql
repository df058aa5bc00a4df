-- Whether a repository holds a manifest, so that a page of the catalog reads those only.
-- A push makes a repository before its manifest, and a mount may make one without any.
ALTER TABLE repository ADD COLUMN listed INTEGER NOT NULL DEFAULT 0;
UPDATE repository SET listed = 1
  WHERE EXISTS (SELECT 1 FROM manifest WHERE manifest.repository_id = repository.id);
CREATE INDEX repository_listed ON repository (name) WHERE listed = 1;

CREATE TRIGGER manifest_inserted AFTER INSERT ON manifest BEGIN
  UPDATE repository SET listed = 1 WHERE id = NEW.repository_id AND listed = 0;
END;
CREATE TRIGGER manifest_deleted AFTER DELETE ON manifest BEGIN
  UPDATE repository SET listed = 0 WHERE id = OLD.repository_id
    AND NOT EXISTS (SELECT 1 FROM manifest WHERE manifest.repository_id = OLD.repository_id);
END;
