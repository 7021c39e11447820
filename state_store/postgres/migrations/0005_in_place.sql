-- What changes at each hop changes in place: the new row lies beside the old one, and no index hears of it.

-- A task's turn and time change with each hop, so no index has them; a sweep looks through the tasks that are open. Half of
-- a page is left for what replaces its rows.
DROP INDEX tasks_due;
ALTER TABLE tasks SET (fillfactor = 50);

-- Nor has any index the mark of a delivery that what it emitted is on the bus. A role's sweep looks for those that have
-- none behind the position up to which it knows that all have; no delivery can still come before it, since positions are
-- committed in their order.
DROP INDEX deliveries_unpublished;
CREATE INDEX deliveries_emitted ON deliveries (role, emitted_upto) WHERE emitted_upto IS NOT NULL;
ALTER TABLE deliveries SET (fillfactor = 50);
ALTER TABLE sweep_marks ADD COLUMN published_upto bigint NOT NULL DEFAULT 0;

-- Each row is found by its key, one after the other. A plan for the list as a whole is made while the table is empty, and
-- reads all deliveries of the role each time. A row that somebody changes at this moment is left to the sweep.
CREATE OR REPLACE FUNCTION ordinary_published(said_by text, event_ids text[]) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    PERFORM set_config('synchronous_commit', 'off', true);
    UPDATE deliveries d SET published = 1
    FROM unnest(event_ids) AS k (event_id)
    CROSS JOIN LATERAL (SELECT o.ctid FROM deliveries o WHERE o.role = said_by AND o.event_id = k.event_id OFFSET 0) AS o
    WHERE d.ctid = o.ctid;
END $$;
