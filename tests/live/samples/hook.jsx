// Mended from outside: the page calls relative URLs, so the test lets fetch start from the service's origin.
import { useState } from 'react';

function useDeleteChat() {
  const [loading, setLoading] = useState(false);
  const [error, setError] = useState(null);

  const deleteChat = async (chatId) => {
    setLoading(true);
    setError(null);

    try {
      const response = await fetch(`/api/v1/chats/${chatId}`, {
        method: 'DELETE',
        headers: {
          'X-API-Key': 'your-tenant-api-key'
        }
      });

      if (!response.ok) {
        throw new Error(`Failed to delete chat: ${response.status}`);
      }

      const data = await response.json();
      
      if (!data.success) {
        throw new Error('Delete operation failed');
      }

      return data;
    } catch (err) {
      setError(err.message);
      throw err;
    } finally {
      setLoading(false);
    }
  };

  return { deleteChat, loading, error };
}

// Usage in component
function ChatItem({ chat, onDeleted }) {
  const { deleteChat, loading } = useDeleteChat();

  const handleDelete = async () => {
    if (!window.confirm('Are you sure you want to delete this chat? This action cannot be undone.')) {
      return;
    }

    try {
      await deleteChat(chat.id);
      onDeleted(chat.id); // Update parent component
    } catch (error) {
      alert('Failed to delete chat: ' + error.message);
    }
  };

  return (
    <div className="chat-item">
      <h3>{chat.title}</h3>
      <button 
        onClick={handleDelete} 
        disabled={loading}
        className="delete-button"
      >
        {loading ? 'Deleting...' : 'Delete Chat'}
      </button>
    </div>
  );
}
