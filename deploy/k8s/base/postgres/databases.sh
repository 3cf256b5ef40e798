# Runs once, on an empty volume: creates a role and a database for auth and inference, each closed to the other.
for name in auth inference; do
    variable="$(echo "$name" | tr a-z A-Z)_DATABASE_PASSWORD"
    psql --set ON_ERROR_STOP=1 --username postgres --dbname postgres \
        --set name="$name" --set password="$(printenv "$variable")" <<'SQL'
CREATE ROLE :"name" LOGIN PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
REVOKE ALL ON DATABASE :"name" FROM PUBLIC;
SQL
done
