-- Take a key's day from the layout of the previous version, and fence it. Atomic.
--
-- A replica of the previous version that reads the fence cannot use the entry, so it holds and charges nothing more. The
-- entries wait under another name until they are imported.
--
-- KEYS[1]  quota:{bucket of the key}:key_id:day  the key's entries, as the previous version wrote them
-- KEYS[2]  quota:{bucket of the key}:key_id:day:moved
-- Returns  the fields and values of the entries; empty if there are none

if redis.call('TYPE', KEYS[1]).ok == 'hash' then
  redis.call('RENAME', KEYS[1], KEYS[2])
end
redis.call('SET', KEYS[1], 'moved')
if redis.call('TYPE', KEYS[2]).ok ~= 'hash' then
  return {}
end
return redis.call('HGETALL', KEYS[2])
