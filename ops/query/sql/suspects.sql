-- Which photos may have a wrong label: those whose label the served version believes least come first.
-- since: date = 365 days ago: the first day whose photos count
-- limit: integer = 20: how many photos to show
-- none: The served version agrees with the label of every photo since that day, or names none.
WITH recent AS (
    SELECT label, predicted, confidence, top3, distance, source, image_id, in_fit
    FROM current_projections
    WHERE ingest_date >= ?
),

doubted AS (
    SELECT
        label,
        predicted,
        confidence,
        distance,
        source,
        image_id,
        top3,
        reduce(
            top3,
            CAST(NULL AS double),
            (found, one) -> CASE WHEN one.label = label THEN CAST(one.confidence AS double) ELSE found END,
            found -> found
        ) AS label_confidence
    FROM recent
    -- Of a label that the version cannot name, all photos would be suspects.
    WHERE label <> predicted AND label IN (SELECT label FROM recent WHERE in_fit)
),

-- A label that is not among the three nearest is at most as likely as the third of them.
ranked AS (
    SELECT
        *,
        row_number() OVER (
            ORDER BY
                coalesce(label_confidence, top3[cardinality(top3)].confidence) / confidence, distance, source
        ) AS place
    FROM doubted
)

SELECT label, predicted, confidence, label_confidence, distance, source, image_id
FROM ranked
WHERE place <= ?
ORDER BY place
