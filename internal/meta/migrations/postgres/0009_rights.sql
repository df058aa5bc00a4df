-- compatible: 1

-- Another random value whenever what rights rest on has changed, so that a node knows by it whether what it remembers is still so: who reads the
-- same value sees the same rights. It is random, and no count, because a database that was set back to an earlier time would count to the same number
-- again. Repositories are not in it, nor when accounts signed in: those are read with it.
CREATE TABLE rights_version (
  version UUID NOT NULL
);
INSERT INTO rights_version (version) VALUES (gen_random_uuid());

-- The row is changed last in a transaction, and once, so that changes of rights wait for each other's COMMIT only.
CREATE FUNCTION rights_changed() RETURNS TRIGGER LANGUAGE plpgsql AS $$
BEGIN
  IF current_setting('berth.rights_changed', true) IS DISTINCT FROM CAST(pg_current_xact_id() AS TEXT) THEN
    UPDATE rights_version SET version = gen_random_uuid();
    PERFORM set_config('berth.rights_changed', CAST(pg_current_xact_id() AS TEXT), true);
  END IF;
  RETURN NULL;
END $$;

-- A new account or credential changes nothing that anybody remembers: what is not there is not remembered.
CREATE CONSTRAINT TRIGGER account_rights AFTER DELETE ON account DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION rights_changed();
CREATE CONSTRAINT TRIGGER account_rights_update AFTER UPDATE ON account DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
  WHEN ((OLD.name, OLD.robot, OLD.admin, OLD.disabled, OLD.networks, OLD.expires_at, OLD.password, OLD.source)
    IS DISTINCT FROM (NEW.name, NEW.robot, NEW.admin, NEW.disabled, NEW.networks, NEW.expires_at, NEW.password, NEW.source))
  EXECUTE FUNCTION rights_changed();
CREATE CONSTRAINT TRIGGER credential_rights AFTER DELETE ON credential DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION rights_changed();
CREATE CONSTRAINT TRIGGER credential_rights_update AFTER UPDATE ON credential DEFERRABLE INITIALLY DEFERRED FOR EACH ROW
  WHEN ((OLD.account_id, OLD.name, OLD.actions, OLD.repositories, OLD.networks, OLD.expires_at)
    IS DISTINCT FROM (NEW.account_id, NEW.name, NEW.actions, NEW.repositories, NEW.networks, NEW.expires_at))
  EXECUTE FUNCTION rights_changed();
CREATE CONSTRAINT TRIGGER organization_rights AFTER INSERT OR UPDATE OR DELETE ON organization DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION rights_changed();
CREATE CONSTRAINT TRIGGER team_rights AFTER UPDATE OR DELETE ON team DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION rights_changed();
CREATE CONSTRAINT TRIGGER team_member_rights AFTER INSERT OR UPDATE OR DELETE ON team_member DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION rights_changed();
CREATE CONSTRAINT TRIGGER team_group_rights AFTER INSERT OR UPDATE OR DELETE ON team_group DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION rights_changed();
CREATE CONSTRAINT TRIGGER account_group_rights AFTER INSERT OR UPDATE OR DELETE ON account_group DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION rights_changed();
CREATE CONSTRAINT TRIGGER access_grant_rights AFTER INSERT OR UPDATE OR DELETE ON access_grant DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION rights_changed();

CREATE TRIGGER account_rights_truncate AFTER TRUNCATE ON account EXECUTE FUNCTION rights_changed();
CREATE TRIGGER organization_rights_truncate AFTER TRUNCATE ON organization EXECUTE FUNCTION rights_changed();
CREATE TRIGGER access_grant_rights_truncate AFTER TRUNCATE ON access_grant EXECUTE FUNCTION rights_changed();
