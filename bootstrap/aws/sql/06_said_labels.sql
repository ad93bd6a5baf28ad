CREATE OR REPLACE VIEW said_labels AS
WITH ranked AS (
    SELECT
        image_id,
        normalize(label, NFC) AS label,
        origin,
        CAST(said_at AT TIME ZONE 'UTC' AS timestamp) AS said_at,
        row_number() OVER (PARTITION BY image_id ORDER BY said_at DESC) AS place
    FROM labels
)

SELECT image_id, label, origin, said_at
FROM ranked
WHERE place = 1 AND origin <> 'folder'
