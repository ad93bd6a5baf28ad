-- Which labels the served version takes for which others, the pairs with most photos first.
-- since: date = 365 days ago: the first day whose photos count
-- limit: integer = 20: how many pairs to show
-- none: The served version names every labelled photo since that day by its label, or names none.
WITH named AS (
    SELECT label, predicted, confidence
    FROM current_projections
    WHERE ingest_date >= ? AND label IS NOT NULL AND predicted IS NOT NULL
),

labels AS (
    SELECT label, count(*) AS photos FROM named GROUP BY label
),

pairs AS (
    SELECT label, predicted, count(*) AS photos, avg(CAST(confidence AS double)) AS confidence
    FROM named
    WHERE label <> predicted
    GROUP BY label, predicted
),

ranked AS (
    SELECT *, row_number() OVER (ORDER BY photos DESC, confidence DESC, label, predicted) AS place FROM pairs
)

SELECT
    ranked.label,
    ranked.predicted,
    ranked.photos,
    labels.photos AS of_label,
    round(1e2 * ranked.photos / labels.photos, 1) AS percent,
    ranked.confidence
FROM ranked
INNER JOIN labels ON ranked.label = labels.label
WHERE ranked.place <= ?
ORDER BY ranked.place
