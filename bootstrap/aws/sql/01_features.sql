CREATE EXTERNAL TABLE IF NOT EXISTS features
LOCATION '${home}/features/'
TBLPROPERTIES ('table_type' = 'DELTA')
