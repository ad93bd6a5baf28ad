-- Whether the confidence of the answers that the app got is honest: how many were right, by tenths of the confidence.
-- since: date = 28 days ago: the first day whose answers count
-- none: No photo whose label counts got an answer since that day; answers come once `fruits refit --reproject` names fruit.
WITH answers AS (
    SELECT
        CAST(answer_confidence AS double) AS confidence,
        CASE WHEN answer = label THEN 1e0 ELSE 0e0 END AS is_correct
    FROM photos
    WHERE
        ingest_date >= ?
        AND label IS NOT NULL
        AND answer IS NOT NULL
        -- Photos that somebody chose are the hard ones.
        AND (folder_label IS NOT NULL OR label_origin = 'random')
),

-- An answer with a confidence of 1 belongs to the last tenth.
tenths AS (
    SELECT least(floor(1e1 * confidence), 9e0) / 1e1 AS lowest, confidence, is_correct FROM answers
),

counted AS (
    SELECT
        lowest,
        count(*) AS answers,
        CAST(sum(is_correct) AS bigint) AS correct,
        avg(confidence) AS confidence,
        avg(is_correct) AS share,
        power(1.96e0, 2) / count(*) AS z2
    FROM tenths
    GROUP BY lowest
)

-- By so few answers the true share is known only roughly: by 95 % it lies between low and high (Wilson's interval).
SELECT
    lowest,
    answers,
    correct,
    confidence,
    round(1e2 * share, 1) AS percent,
    round(1e2 * (share + z2 / 2 - sqrt(z2 * (share * (1 - share) + z2 / 4))) / (1 + z2), 1) AS low,
    round(1e2 * (share + z2 / 2 + sqrt(z2 * (share * (1 - share) + z2 / 4))) / (1 + z2), 1) AS high
FROM counted
ORDER BY lowest
