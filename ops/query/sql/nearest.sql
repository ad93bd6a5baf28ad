-- Which photos are nearest to a given one in the served PCA space; it comes first itself.
-- image: varchar: the image_id of the photo, or its first characters
-- k: integer = 10: how many neighbours to show
-- none: No photo has such an image_id in the served PCA version; `fruits query find` shows a file's image_id.
WITH given AS (
    SELECT image_id, pca
    FROM current_projections
    WHERE starts_with(image_id, ?)
    ORDER BY image_id
    LIMIT 1
),

distances AS (
    SELECT
        photos.image_id,
        photos.label,
        photos.source,
        photos.image_id = given.image_id AS is_given,
        sqrt(
            reduce(
                sequence(1, cardinality(given.pca)),
                0e0,
                (total, i) -> total + power(photos.pca[i] - given.pca[i], 2),
                total -> total
            )
        ) AS distance
    FROM current_projections AS photos
    CROSS JOIN given
),

-- Copies of one photo count as one neighbour.
copied AS (
    SELECT
        *,
        count(*) OVER (PARTITION BY image_id) AS copies,
        row_number() OVER (PARTITION BY image_id ORDER BY source) AS place
    FROM distances
),

ranked AS (
    SELECT *, row_number() OVER (ORDER BY is_given DESC, distance, image_id) - 1 AS neighbour
    FROM copied
    WHERE place = 1
)

SELECT neighbour, label, distance, copies, source, image_id
FROM ranked
WHERE neighbour <= ?
ORDER BY neighbour
