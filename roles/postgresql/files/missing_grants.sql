-- Whether the writer lacks a right on a table, sequence or schema of the owner's, or would lack it on a new one.
SELECT EXISTS (
    SELECT FROM unnest(ARRAY['r', 'S', 'n']) AS kind
    WHERE NOT EXISTS (
        SELECT FROM pg_default_acl d, aclexplode(d.defaclacl) a
        WHERE d.defaclrole = %(owner)s::regrole AND d.defaclnamespace = 0 AND d.defaclobjtype::text = kind
          AND a.grantee = %(writer)s::regrole))
OR EXISTS (
    SELECT FROM pg_class c
    WHERE c.relowner = %(owner)s::regrole
      AND (c.relkind IN ('r', 'p', 'v', 'm', 'f') AND NOT has_table_privilege(%(writer)s, c.oid, 'INSERT')
           OR c.relkind = 'S' AND NOT has_sequence_privilege(%(writer)s, c.oid, 'UPDATE')))
OR EXISTS (
    SELECT FROM pg_namespace n
    WHERE n.nspowner = %(owner)s::regrole AND NOT has_schema_privilege(%(writer)s, n.oid, 'USAGE'))
AS missing
