-- Change or delete the record of an idempotency key, if it is of one request.
--
-- KEYS: the account's hash and sorted set of expiries (claim.lua).
-- ARGV: request id, new progress (or empty to delete the record), new request id, then the key's digest by each secret.
-- Returns 1, or 0 if the request has no record.
local records, expiries = KEYS[1], KEYS[2]
local request, progress, new_request = ARGV[1], ARGV[2], ARGV[3]
local FIRST_DIGEST = 4

for i = FIRST_DIGEST, #ARGV do
    local record = redis.call('HGET', records, ARGV[i])
    local times, request_id, fingerprint
    if record then
        times, request_id, fingerprint = string.match(record, '^%S+ (%S+ %S+ %S+) (%S+) (%S+)$')
    end
    -- The script may run twice, since its connection broke: then the record has the new id already.
    if request_id and (request_id == request or request_id == new_request) then
        if progress == '' then
            redis.call('HDEL', records, ARGV[i])
            redis.call('ZREM', expiries, ARGV[i])
        else
            redis.call('HSET', records, ARGV[i], table.concat({progress, times, new_request, fingerprint}, ' '))
        end
        return 1
    end
end
return 0
