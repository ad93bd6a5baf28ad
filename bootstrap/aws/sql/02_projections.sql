CREATE EXTERNAL TABLE IF NOT EXISTS projections
LOCATION '${home}/projections/'
TBLPROPERTIES ('table_type' = 'DELTA')
