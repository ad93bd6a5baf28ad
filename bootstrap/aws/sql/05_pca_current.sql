CREATE EXTERNAL TABLE IF NOT EXISTS pca_current (serving int, featurizer string)
ROW FORMAT SERDE 'org.apache.hive.hcatalog.data.JsonSerDe'
LOCATION '${home}/models/pca/current/'
